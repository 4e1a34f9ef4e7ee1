//! Namespaces of the kernel, one for each process of a cluster, on a bridge: what is cut between
//! two of them is lost without a word, as on a real network, and no proxy stands in between.
//!
//! A test may make them in a user namespace of its own, where the system permits that. So it runs
//! itself once more in there.

use std::net::{Ipv4Addr, SocketAddr};
use std::process::{Command, Stdio};

use kiln_testkit::process::{Guard, wait_for};

/// Says to the second run that it is within.
const WITHIN: &str = "KILN_WITHIN_NAMESPACE";

const BRIDGE: &str = "kiln0";

/// Where nobody listens.
const NOWHERE: &str = "02:00:00:00:00:ff";

/// The address of a number on the bridge; the test itself, and with it the store, is number 1.
fn address(number: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 77, 0, number)
}

/// Whether this process is the one within.
pub(crate) fn is_within() -> bool {
    std::env::var_os(WITHIN).is_some()
}

fn unshared() -> Command {
    let mut command = Command::new("unshare");
    command.args(["--user", "--map-root-user", "--net"]);
    command.stdin(Stdio::null());
    command
}

/// Whether the system permits it, and has what it takes.
pub(crate) fn is_permitted() -> bool {
    let make = format!("ip link add {BRIDGE} type bridge && unshare --net nsenter --version");
    let tried = unshared().args(["sh", "-c", &make]).output();
    tried.is_ok_and(|tried| tried.status.success())
}

/// Runs a test of this program within.
pub(crate) fn run_within(test: &str) {
    let program = std::env::current_exe().expect("this program is a file");
    let mut command = unshared();
    command.arg(program).args([test, "--exact", "--nocapture"]);
    command.env(WITHIN, "1");
    let mut within = Guard::start(command);
    let ended = within.child.wait().expect("a child can be waited for");
    assert!(ended.success(), "it failed within its namespace: {ended}");
}

fn ip(args: &[&str]) {
    let said = Command::new("ip").args(args).output();
    let said = said.expect("ip starts");
    let error = String::from_utf8_lossy(&said.stderr);
    assert!(said.status.success(), "ip {args:?}: {error}");
}

/// Makes the bridge; where a server of this process can listen on it.
pub(crate) fn bridge() -> SocketAddr {
    let here = address(1);
    ip(&["link", "set", "lo", "up"]);
    // An address of its own, not that of whoever comes next.
    let mac = "02:00:00:00:00:01";
    ip(&["link", "add", BRIDGE, "address", mac, "type", "bridge"]);
    ip(&["addr", "add", &format!("{here}/24"), "dev", BRIDGE]);
    ip(&["link", "set", BRIDGE, "up"]);
    SocketAddr::from((here, 0))
}

/// The namespace of one process, which may be started there again and again.
pub(crate) struct Namespace {
    number: u8,
    /// Keeps it while nobody else is there.
    holder: Guard,
}

impl Namespace {
    /// A namespace with the address of this number, which nobody else has now.
    pub(crate) fn new(number: u8) -> Self {
        let mut command = Command::new("unshare");
        command.args(["--net", "sleep", "infinity"]);
        command.stdin(Stdio::null());
        let holder = Guard::start(command);
        let pid = holder.pid().to_string();
        let of = |pid: &str| std::fs::read_link(format!("/proc/{pid}/ns/net")).ok();
        wait_for("a namespace", || {
            (of(&pid).is_some() && of(&pid) != of("self")).then_some(())
        });
        let namespace = Namespace { number, holder };
        let port = namespace.port();
        // The same each time, so that nobody's knowledge of who has an address is out of date.
        let mac = format!("02:00:00:00:00:{number:02x}");
        let veth = ["link", "add", &port, "type", "veth"];
        let peer = ["peer", "name", "eth0", "address", &mac, "netns", &pid];
        ip(&[&veth[..], &peer[..]].concat());
        ip(&["link", "set", &port, "master", BRIDGE, "up"]);
        namespace.ip(&["link", "set", "lo", "up"]);
        let own = format!("{}/24", namespace.address());
        namespace.ip(&["addr", "add", &own, "dev", "eth0"]);
        namespace.ip(&["link", "set", "eth0", "up"]);
        namespace
    }

    /// Where its servers listen.
    pub(crate) fn address(&self) -> Ipv4Addr {
        address(self.number)
    }

    /// The same command there.
    pub(crate) fn enter(&self, command: &Command) -> Command {
        let mut entered = Command::new("nsenter");
        let pid = self.holder.pid().to_string();
        entered.args(["--net", "--target", &pid, "--"]);
        entered.arg(command.get_program()).args(command.get_args());
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => entered.env(name, value),
                None => entered.env_remove(name),
            };
        }
        entered.stdin(Stdio::null());
        entered
    }

    /// The end of its cable at the bridge.
    fn port(&self) -> String {
        format!("kiln-{}", self.holder.pid())
    }

    fn ip(&self, args: &[&str]) {
        let mut command = Command::new("ip");
        command.args(args);
        let said = self.enter(&command).output().expect("nsenter starts");
        let error = String::from_utf8_lossy(&said.stderr);
        assert!(said.status.success(), "ip {args:?}: {error}");
    }

    /// What goes from here to `other` is lost, so no connection between them goes on. If it is
    /// `refused`, who sends it is told.
    pub(crate) fn cut(&self, other: Ipv4Addr, refused: bool) {
        let other = other.to_string();
        match refused {
            true => self.ip(&["route", "add", "prohibit", &other]),
            false => self.ip(&[
                "neigh",
                "replace",
                &other,
                "lladdr",
                NOWHERE,
                "dev",
                "eth0",
                "nud",
                "permanent",
            ]),
        }
    }

    /// Makes up for it.
    pub(crate) fn mend(&self, other: Ipv4Addr, refused: bool) {
        let other = other.to_string();
        match refused {
            true => self.ip(&["route", "del", "prohibit", &other]),
            false => self.ip(&["neigh", "del", &other, "dev", "eth0"]),
        }
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        // It goes with its last process, but some time later: until then two would have one
        // address. A test that fails may have no cable any more.
        let args = ["link", "delete", &self.port()];
        let _ = Command::new("ip").args(args).output();
    }
}

/// The address of the store and of this process.
pub(crate) fn here() -> Ipv4Addr {
    address(1)
}
