//! When a rule strikes, of the times that it could.

/// To which of the requests that match a rule its fault happens.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Occasion {
    /// So many are spared first.
    pub(crate) skip: u64,
    /// Not more than so many are met.
    pub(crate) times: u64,
    /// With this probability.
    pub(crate) chance: f64,
}

impl Occasion {
    /// Every time.
    pub(crate) const ALWAYS: Occasion = Occasion {
        skip: 0,
        times: u64::MAX,
        chance: 1.0,
    };

    /// Whether this request, which matches, is one of them.
    pub(crate) fn take(&mut self, random: &mut fastrand::Rng) -> bool {
        if self.times == 0 {
            return false;
        }
        if self.skip > 0 {
            self.skip -= 1;
            return false;
        }
        if self.chance < 1.0 && random.f64() >= self.chance {
            return false;
        }
        self.times -= 1;
        true
    }
}
