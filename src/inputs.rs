//! Where input comes from, in all the shapes in which people have it.

/// One or several paths, globs or URLs of files or directories.
pub trait Inputs {
    /// The locations as they were written.
    fn into_locations(self) -> Vec<String>;
}

impl Inputs for &str {
    fn into_locations(self) -> Vec<String> {
        vec![self.to_owned()]
    }
}

impl Inputs for String {
    fn into_locations(self) -> Vec<String> {
        vec![self]
    }
}

impl Inputs for &String {
    fn into_locations(self) -> Vec<String> {
        vec![self.clone()]
    }
}

impl<T: AsRef<str>> Inputs for &[T] {
    fn into_locations(self) -> Vec<String> {
        self.iter()
            .map(|location| location.as_ref().to_owned())
            .collect()
    }
}

impl<T: AsRef<str>, const N: usize> Inputs for [T; N] {
    fn into_locations(self) -> Vec<String> {
        self.as_slice().into_locations()
    }
}

impl<T: AsRef<str>> Inputs for Vec<T> {
    fn into_locations(self) -> Vec<String> {
        self.as_slice().into_locations()
    }
}

impl<T: AsRef<str>> Inputs for &Vec<T> {
    fn into_locations(self) -> Vec<String> {
        self.as_slice().into_locations()
    }
}
