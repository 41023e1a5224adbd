//! Loss of power: what the gateway has not synced is gone, and what was told holds all the same.
//!
//! A library that is preloaded into the gateway keeps what each sync has made safe; after a kill the state directory becomes that. It is the worst that a
//! disk which keeps its word can do: nothing is written back before it must be.

use std::fs;
use std::os::unix::fs::DirEntryExt;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;

use tempfile::TempDir;

use crate::crash;
use crate::support::site::Site;

/// A machine whose power fails.
pub struct Power {
    directory: TempDir,
}

impl Power {
    /// Compiles the library.
    #[track_caller]
    pub fn new() -> Power {
        let directory = tempfile::tempdir().unwrap();
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/real/power.c");
        let mut cc = Command::new("cc");
        cc.args(["-shared", "-fPIC", "-O1", "-o"])
            .arg(directory.path().join("power.so"))
            .arg(source)
            .arg("-ldl");
        assert!(cc.status().unwrap().success(), "{cc:?}");
        fs::create_dir(directory.path().join("kept")).unwrap();
        Power { directory }
    }

    fn kept(&self) -> PathBuf {
        self.directory.path().join("kept")
    }

    /// Everything that is there now is safe.
    pub fn begin(&self, site: &Site) {
        let state = state_of(site);
        fs::remove_dir_all(self.kept()).unwrap();
        fs::create_dir(self.kept()).unwrap();
        let mut names = String::new();
        for entry in fs::read_dir(&state).unwrap().map(Result::unwrap) {
            if entry.file_type().unwrap().is_file() {
                let number = entry.ino().to_string();
                fs::copy(entry.path(), self.kept().join(&number)).unwrap();
                names += &format!("{number} {}\n", entry.file_name().to_str().unwrap());
            }
        }
        fs::write(self.kept().join("names"), names).unwrap();
    }

    /// Keeps what this program will have synced. Commands act on the files themselves when the gateway is gone.
    pub fn watch(&self, site: &Site, program: &mut Command) {
        program
            .env("LD_PRELOAD", self.directory.path().join("power.so"))
            .env("POWER_STATE", state_of(site))
            .env("POWER_KEPT", self.kept());
    }

    /// The state directory as it is found when the power is back.
    pub fn fail(&self, site: &Site) {
        let state = state_of(site);
        for entry in fs::read_dir(&state).unwrap().map(Result::unwrap) {
            fs::remove_file(entry.path()).unwrap();
        }
        let names = fs::read_to_string(self.kept().join("names")).unwrap();
        for (number, name) in names.lines().filter_map(|line| line.split_once(' ')) {
            let bytes = fs::read(self.kept().join(number)).unwrap_or_default();
            // SQLite's index of a WAL is made anew.
            if !name.ends_with("-shm") {
                fs::write(state.join(name), bytes).unwrap();
            }
        }
    }
}

fn state_of(site: &Site) -> PathBuf {
    let state = site.setup.directory().join("state");
    fs::canonicalize(state).unwrap()
}

// DESIGN section 1, promises 1 and 2: keys that were printed are there, revoked ones are gone, and no count of what was forwarded is lost.
#[test]
fn what_was_told_holds_when_the_power_fails() {
    crash::kill_often(5, "strict", Some(&Power::new()));
}
