//! A place in a store, and the command with the variables by which it is found.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use kiln_engine::storage::{StoreSettings, Stores};
use kiln_testkit::process::{self, Guard};
use object_store::ObjectStoreExt as _;

/// How long a driver that was asked to leave may take before it is killed.
const FAREWELL: Duration = Duration::from_secs(20);

/// A URL below which a test does what it likes.
pub(crate) struct Place {
    variables: Vec<(String, String)>,
    root: String,
}

/// What a finished command has said.
#[derive(Debug)]
pub(crate) struct Said {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Place {
    pub(crate) fn new(variables: Vec<(String, String)>, root: &str) -> Self {
        Place {
            variables,
            root: root.to_owned(),
        }
    }

    pub(crate) fn below(&self, name: &str) -> Place {
        Place::new(self.variables.clone(), &self.url(name))
    }

    pub(crate) fn url(&self, name: &str) -> String {
        format!("{}/{name}", self.root)
    }

    /// Writes an object.
    pub(crate) fn put(&self, name: &str, bytes: &[u8]) {
        let stores = Stores::with_settings(StoreSettings {
            variables: self.variables.clone(),
            ..StoreSettings::default()
        });
        let (store, path) = stores.get(&self.url(name)).expect("settings");
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build();
        let put = store.put(&path, bytes.to_vec().into());
        runtime.expect("a runtime").block_on(put).expect("a put");
    }

    /// Writes every file below `directory`.
    pub(crate) fn put_directory(&self, name: &str, directory: &Path) {
        for entry in std::fs::read_dir(directory).expect("a directory") {
            let path = entry.expect("an entry").path();
            let file = path.file_name().and_then(|name| name.to_str());
            let name = format!("{name}/{}", file.expect("a plain name"));
            if path.is_dir() {
                self.put_directory(&name, &path);
            } else {
                self.put(&name, &std::fs::read(&path).expect("a file"));
            }
        }
    }

    /// The command, with this place's variables and no others.
    fn command(&self, args: &[&str]) -> Command {
        let mut command = process::command(env!("CARGO_BIN_EXE_kiln"), args);
        let variables = self.variables.iter();
        command.envs(variables.map(|(name, value)| (name, value)));
        command
    }

    /// Starts the command, to be heard.
    pub(crate) fn client(&self, args: &[&str]) -> Guard {
        let mut command = self.command(args);
        command.stdout(Stdio::null()).stderr(Stdio::piped());
        Guard::start(command)
    }

    /// Runs the command to its end.
    pub(crate) fn run(&self, args: &[&str]) -> Said {
        let output = self.command(args).output().expect("the command starts");
        Said {
            code: output.status.code(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// The same, and expects success.
    pub(crate) fn run_ok(&self, args: &[&str]) -> String {
        let said = self.run(args);
        assert_eq!(said.code, Some(0), "{args:?} {said:?}");
        said.stdout
    }
}

/// A driver and two executors, whose storage is in a place.
pub(crate) struct Cluster {
    pub(crate) url: String,
    driver: Child,
    executors: Vec<Child>,
}

impl Cluster {
    pub(crate) fn start(place: &Place) -> Self {
        let storage = place.url("storage");
        let args = ["driver", "--listen", "127.0.0.1:0", "--storage", &storage];
        let mut command = place.command(&args);
        let mut driver = command.stdout(Stdio::piped()).spawn().expect("it starts");
        let stdout = driver.stdout.take().expect("stdout is piped");
        let mut cluster = Cluster {
            url: String::new(),
            driver,
            executors: Vec::new(),
        };
        let mut banner = String::new();
        let said = BufReader::new(stdout).read_line(&mut banner);
        said.expect("the driver prints where it listens");
        let url = banner.split_whitespace().nth(2);
        url.expect("listening on URL").clone_into(&mut cluster.url);
        for _ in 0..2 {
            let args = ["executor", "--driver", &cluster.url, "--threads", "1"];
            let executor = place.command(&args).spawn();
            cluster.executors.push(executor.expect("it starts"));
        }
        cluster
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        // In order first, so that it clears away what it has in the store.
        let pid = self.driver.id().to_string();
        let _ = Command::new("kill").args(["-TERM", &pid]).status();
        let asked = Instant::now();
        while asked.elapsed() < FAREWELL && self.driver.try_wait().is_ok_and(|end| end.is_none()) {
            std::thread::sleep(Duration::from_millis(5));
        }
        for child in self.executors.iter_mut().chain([&mut self.driver]) {
            // It may have ended already.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
