//! Commits that are cut off between any two calls of the file system, and two drivers that run
//! the same commit at once, with somebody who looks at the output after every call.

use std::collections::BTreeMap;
use std::fs;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex};

use kiln_engine::ErrorKind;
use kiln_engine::plan::{FileFormat, Output, OutputFile, OutputOptions};

use super::super::disk::Disk;
use super::super::names;
use super::*;

/// A file system that fails where it is told to, takes turns and can be looked at.
struct Faulty<'a> {
    /// Calls that succeed; all later ones fail.
    left: AtomicUsize,
    errno: i32,
    /// Whether directories can swap places, and files can have two names.
    able: bool,
    turns: Option<(&'a Turns, usize)>,
    look: &'a (dyn Fn() + Sync),
}

impl<'a> Faulty<'a> {
    fn new(able: bool, look: &'a (dyn Fn() + Sync)) -> Self {
        Faulty {
            left: AtomicUsize::new(usize::MAX),
            errno: rustix::io::Errno::IO.raw_os_error(),
            able,
            turns: None,
            look,
        }
    }

    fn call<T>(&self, call: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        if let Some((turns, who)) = self.turns {
            turns.wait(who);
        }
        let left = self.left.load(Ordering::Relaxed);
        self.left.store(left.saturating_sub(1), Ordering::Relaxed);
        let outcome = match left {
            0 => Err(io::Error::from_raw_os_error(self.errno)),
            _ => call(),
        };
        (self.look)();
        if let Some((turns, who)) = self.turns {
            turns.pass(who);
        }
        outcome
    }
}

/// Nothing is made durable here: it takes long, and no power fails in a test.
impl FileSystem for Faulty<'_> {
    fn read(&self, file: &Path) -> io::Result<Vec<u8>> {
        self.call(|| Disk.read(file))
    }

    fn size(&self, file: &Path) -> io::Result<u64> {
        self.call(|| Disk.size(file))
    }

    fn is_directory(&self, path: &Path) -> io::Result<Option<bool>> {
        self.call(|| Disk.is_directory(path))
    }

    fn entries(&self, directory: &Path) -> io::Result<Vec<(PathBuf, bool)>> {
        self.call(|| Disk.entries(directory))
    }

    fn create_directory(&self, directory: &Path) -> io::Result<()> {
        self.call(|| Disk.create_directory(directory))
    }

    fn write(&self, file: &Path, text: &str) -> io::Result<()> {
        self.call(|| fs::File::create_new(file).map(drop))?;
        self.call(|| fs::write(file, text))
    }

    fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.call(|| match self.able {
            true => Disk.link(from, to),
            false => fs::copy(from, to).map(drop),
        })
    }

    fn sync(&self, path: &Path) -> io::Result<()> {
        self.call(|| fs::metadata(path).map(drop))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.call(|| Disk.rename(from, to))
    }

    fn exchange(&self, one: &Path, other: &Path) -> io::Result<()> {
        self.call(|| match self.able {
            true => Disk.exchange(one, other),
            false => Err(io::ErrorKind::Unsupported.into()),
        })
    }

    fn remove_file(&self, file: &Path) -> io::Result<()> {
        self.call(|| Disk.remove_file(file))
    }

    fn remove_directory(&self, directory: &Path) -> io::Result<()> {
        self.call(|| Disk.remove_directory(directory))
    }

    fn remove_tree(&self, directory: &Path) -> io::Result<()> {
        self.call(|| Disk.remove_tree(directory))
    }
}

/// Who of two may make the next call.
struct Turns {
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    turn: usize,
    ended: [bool; 2],
    /// Whose turn it is after each call; the first to run when there are no more of these.
    order: Box<dyn FnMut() -> usize + Send>,
}

impl Turns {
    fn new(mut order: impl FnMut() -> usize + Send + 'static) -> Self {
        let turn = order();
        Turns {
            state: Mutex::new(State {
                turn,
                ended: [false; 2],
                order: Box::new(order),
            }),
            changed: Condvar::new(),
        }
    }

    fn wait(&self, who: usize) {
        let state = self.state.lock().expect("no test panics with it");
        let ours = self.changed.wait_while(state, |state| state.turn != who);
        drop(ours.expect("no test panics with it"));
    }

    fn pass(&self, who: usize) {
        let mut state = self.state.lock().expect("no test panics with it");
        let next = (state.order)();
        state.turn = if state.ended[next] { who } else { next };
        self.changed.notify_all();
    }
}

/// Has the other go on when one has ended, also by a panic.
struct Taking<'a>(&'a Turns, usize);

impl Drop for Taking<'_> {
    fn drop(&mut self) {
        let Taking(turns, who) = self;
        let mut state = turns.state.lock().expect("no test panics with it");
        state.ended[*who] = true;
        state.turn = 1 - *who;
        turns.changed.notify_all();
    }
}

/// What a reader of a directory finds: names and contents; nothing if there is no directory.
type Seen = BTreeMap<String, String>;

/// An output of job 1, or none, and job 2 with files `a` and `b` staged.
struct World {
    directory: tempfile::TempDir,
    output: Output,
    job: JobId,
    files: Vec<OutputFile>,
}

impl World {
    fn new(mode: OutputMode, base: bool) -> Self {
        let shared = Path::new("/dev/shm");
        let directory = match shared.is_dir() {
            true => tempfile::tempdir_in(shared),
            false => tempfile::tempdir(),
        };
        let options = OutputOptions {
            mode: OutputMode::ErrorIfExists,
            ..OutputOptions::default()
        };
        let mut world = World {
            directory: directory.expect("a temporary directory"),
            output: Output {
                url: "file:///out".to_owned(),
                format: FileFormat::Csv,
                options,
            },
            job: JobId::new(1),
            files: Vec::new(),
        };
        if base {
            world.stage(&["x/old"]);
            world
                .commit(&Faulty::new(true, &|| {}))
                .expect("nothing is in the way");
        }
        world.job = JobId::new(2);
        world.output.options.mode = mode;
        world.stage(&["a", "x/b"]);
        world
    }

    fn stage(&mut self, names: &[&str]) {
        let file = |name: &&str| OutputFile {
            name: (*name).to_owned(),
            rows: 1,
            bytes: 5,
            checksum: 0,
            pending: None,
        };
        self.files = names.iter().map(file).collect();
        for name in names {
            let path = self.staging().join(name);
            fs::create_dir_all(path.parent().expect("a parent")).expect("a directory");
            fs::write(path, format!("{:>5}", name.len() as u64 + self.job.value()))
                .expect("a file");
        }
    }

    fn target(&self) -> PathBuf {
        self.directory.path().join("out")
    }

    fn staging(&self) -> PathBuf {
        self.directory
            .path()
            .join(format!(".out.kiln-{}", self.job))
    }

    fn with<T>(&self, files: &Faulty<'_>, work: impl FnOnce(&Place<'_>) -> T) -> T {
        work(&Place {
            files,
            url: &self.output.url,
            target: &self.target(),
            staging: &self.staging(),
            job: self.job,
            mode: self.output.options.mode,
        })
    }

    fn commit(&self, files: &Faulty<'_>) -> Result<()> {
        let (moves, committed) = names(self.job, &self.output, self.files.clone())?;
        let manifest = Manifest::new(self.job, &self.output, &committed);
        self.with(files, |place| place.commit(&moves, &manifest))
    }

    fn discard(&self, files: &Faulty<'_>) -> Result<()> {
        self.with(files, |place| place.discard())
    }

    fn seen(&self) -> Seen {
        let mut seen = Seen::new();
        let mut left = vec![self.target()];
        while let Some(directory) = left.pop() {
            let Ok(entries) = fs::read_dir(&directory) else {
                continue;
            };
            for entry in entries {
                let path = entry.expect("an entry").path();
                if path.is_dir() {
                    left.push(path);
                    continue;
                }
                let name = path.strip_prefix(self.target()).expect("below it");
                let content = fs::read_to_string(&path).expect("a file");
                seen.insert(name.display().to_string(), content);
            }
        }
        seen
    }

    /// What is there beside the output, which is to be nothing in the end.
    fn left(&self) -> Vec<String> {
        let entries = fs::read_dir(self.directory.path()).expect("a directory");
        let name = |entry: io::Result<fs::DirEntry>| {
            let name = entry.expect("an entry").file_name();
            name.to_string_lossy().into_owned()
        };
        entries.map(name).filter(|name| name != "out").collect()
    }
}

/// A kind of commit: its mode, whether there is an output, and what the file system can do.
#[derive(Debug, Clone, Copy)]
struct Case {
    mode: OutputMode,
    base: bool,
    able: bool,
}

fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for able in [true, false] {
        for (mode, base) in [
            (OutputMode::ErrorIfExists, false),
            (OutputMode::Overwrite, false),
            (OutputMode::Overwrite, true),
            (OutputMode::Append, false),
            (OutputMode::Append, true),
        ] {
            cases.push(Case { mode, base, able });
        }
    }
    cases
}

impl Case {
    fn world(self) -> World {
        World::new(self.mode, self.base)
    }

    /// What may be seen: before the commit, after it; and how many calls it takes.
    fn outcomes(self) -> (Seen, Seen, usize) {
        let world = self.world();
        let before = world.seen();
        let files = Faulty::new(self.able, &|| {});
        world.commit(&files).expect("nothing is in the way");
        let calls = usize::MAX - files.left.load(Ordering::Relaxed);
        assert!(calls > 10, "the calls are counted");
        (before, world.seen(), calls)
    }

    /// Fails if `seen` is neither. Where directories cannot be swapped there is a moment when
    /// nothing is there.
    fn check(self, seen: &Seen, before: &Seen, after: &Seen, when: &str) {
        let absent = seen.is_empty() && !self.able;
        assert!(
            seen == before || seen == after || absent,
            "{self:?} {when}: {seen:#?}"
        );
    }
}

#[test]
fn a_commit_that_was_cut_off_anywhere_is_finished_by_the_next() {
    for case in cases() {
        let (before, after, calls) = case.outcomes();
        for cut in 0..calls {
            let world = case.world();
            let when = format!("cut={cut}");
            let look = || case.check(&world.seen(), &before, &after, &when);
            let cut_off = Faulty {
                left: AtomicUsize::new(cut),
                ..Faulty::new(case.able, &look)
            };
            // What is left over at the end is no failure.
            let outcome = world.commit(&cut_off);
            assert!(cut_off.left.load(Ordering::Relaxed) == 0, "{case:?} {when}");
            if outcome.is_ok() {
                assert_eq!(world.seen(), after, "{case:?} {when}");
            }
            let next = Faulty::new(case.able, &look);
            for _ in 0..2 {
                world
                    .commit(&next)
                    .unwrap_or_else(|error| panic!("{case:?} {when}: {}", error.report()));
                assert_eq!(world.seen(), after, "{case:?} {when}");
            }
            assert_eq!(world.left(), [""; 0], "{case:?} {when}");
            // A report that comes late has the job's files removed.
            world.discard(&next).expect("nothing to discard");
            assert_eq!(world.seen(), after, "{case:?} {when}");
        }
    }
}

#[test]
fn a_commit_that_failed_leaves_what_was_there() {
    for case in cases() {
        let (before, after, calls) = case.outcomes();
        for cut in 0..calls {
            for (errno, kind) in [
                (rustix::io::Errno::NOSPC, ErrorKind::Exhausted),
                (rustix::io::Errno::ACCESS, ErrorKind::Invalid),
            ] {
                let world = case.world();
                let full = Faulty {
                    left: AtomicUsize::new(cut),
                    errno: errno.raw_os_error(),
                    ..Faulty::new(case.able, &|| {})
                };
                let when = format!("{case:?} cut={cut} errno={errno}");
                match world.commit(&full) {
                    Ok(()) => assert_eq!(world.seen(), after, "{when}"),
                    Err(error) => assert_eq!(error.kind(), kind, "{when}: {}", error.report()),
                }
                let healed = Faulty::new(case.able, &|| {});
                world.discard(&healed).expect("discarded");
                let seen = world.seen();
                assert!(seen == before || seen == after, "{when}: {seen:#?}");
                assert_eq!(world.left(), [""; 0], "{when}");
            }
        }
    }
}

/// Runs two drivers with the same commit, in turns; both say that it is done.
fn together(case: Case, outcomes: &(Seen, Seen, usize), turns: &Turns, when: &str) {
    let (before, after, _) = outcomes;
    let world = case.world();
    let look = || case.check(&world.seen(), before, after, when);
    std::thread::scope(|scope| {
        for who in [0, 1] {
            let (world, look) = (&world, &look);
            scope.spawn(move || {
                let _taking = Taking(turns, who);
                let files = Faulty {
                    turns: Some((turns, who)),
                    ..Faulty::new(case.able, look)
                };
                let mut outcome = world.commit(&files);
                // Whoever is told to try again does.
                for _ in 0..9 {
                    if !matches!(&outcome, Err(e) if e.kind() == ErrorKind::Unavailable) {
                        break;
                    }
                    outcome = world.commit(&files);
                }
                outcome.unwrap_or_else(|error| panic!("{case:?} {when}: {}", error.report()));
            });
        }
    });
    assert_eq!(world.seen(), *after, "{case:?} {when}");
    assert_eq!(world.left(), [""; 0], "{case:?} {when}");
}

/// First `counts[0]` turns of one, then `counts[1]` of the other, and so on.
fn preempted(counts: Vec<usize>) -> impl FnMut() -> usize + Send + 'static {
    let mut made = 0;
    move || {
        let mut left = made;
        made += 1;
        let mut phase = 0;
        for count in &counts {
            if left < *count {
                return phase % 2;
            }
            left -= count;
            phase += 1;
        }
        phase % 2
    }
}

#[test]
fn two_drivers_that_hold_each_other_up_come_to_the_same_end() {
    for case in cases() {
        let outcomes = case.outcomes();
        for first in 0..outcomes.2 {
            let turns = Turns::new(preempted(vec![first]));
            together(case, &outcomes, &turns, &format!("first={first}"));
            for second in (1..outcomes.2).step_by(4) {
                let turns = Turns::new(preempted(vec![first, second]));
                together(
                    case,
                    &outcomes,
                    &turns,
                    &format!("first={first} second={second}"),
                );
            }
        }
    }
}

#[test]
fn two_drivers_in_any_order_come_to_the_same_end() {
    for seed in 0..400 {
        let mut random = fastrand::Rng::with_seed(seed);
        let cases = cases();
        let case = cases[random.usize(..cases.len())];
        let outcomes = case.outcomes();
        // Long turns and short ones.
        let stays = random.f64();
        let mut turn = 0;
        let turns = Turns::new(move || {
            if random.f64() > stays {
                turn = 1 - turn;
            }
            turn
        });
        together(case, &outcomes, &turns, &format!("seed={seed}"));
    }
}
