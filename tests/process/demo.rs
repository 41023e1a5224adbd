//! First contact: the demonstration.

use std::fs;
use std::io::BufRead;
use std::io::BufReader;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::path::PathBuf;
use std::process::Child;
use std::process::Command;
use std::process::Stdio;

use rustix::process::Signal;

use crate::support;
use crate::support::site::BINARY;
use crate::support::site::Running;

// First contact: `demo` prints curl lines, and each answers what its comment says when they are pasted in order.
#[test]
fn the_demo_prints_lines_that_do_what_they_say() {
    if support::real::left_out("curl") {
        return;
    }
    let home = tempfile::tempdir().unwrap();
    let child = Command::new(BINARY)
        .arg("demo")
        .current_dir(home.path())
        .env("HOME", home.path())
        .env("TMPDIR", home.path())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut running = Running {
        child,
        errors: PathBuf::new(),
    };
    let lines = curl_lines(&mut running.child);
    let mut seen = Vec::new();
    for line in &lines {
        let (_, comment) = line
            .rsplit_once("  # ")
            .or(line.rsplit_once("# "))
            .expect("a comment");
        let expected: u16 = comment[..3].parse().expect("a status");
        assert_eq!(last_status_of(line, home.path()), expected, "{line}");
        seen.push(expected);
    }
    for status in [200, 401, 403, 429] {
        assert!(seen.contains(&status), "{status} in {seen:?}");
    }
    running.signal(Signal::TERM);
    assert_eq!(running.ended(), Some(0));
}

/// Reads what the demo prints on either stream until there are four curl lines and a pause of its own making: the line that
/// names the last of the four statuses.
fn curl_lines(child: &mut Child) -> Vec<String> {
    let (sender, receiver) = std::sync::mpsc::channel();
    let streams: [Box<dyn std::io::Read + Send>; 2] = [
        Box::new(child.stdout.take().unwrap()),
        Box::new(child.stderr.take().unwrap()),
    ];
    for stream in streams {
        let sender = sender.clone();
        std::thread::spawn(move || {
            for line in BufReader::new(stream).lines().map_while(Result::ok) {
                let _ = sender.send(line);
            }
        });
    }
    let mut lines: Vec<String> = Vec::new();
    let mut heard = Vec::new();
    loop {
        let all_four = ["# 200", "# 401", "# 403", "# 429"]
            .iter()
            .all(|comment| lines.iter().any(|line| line.contains(comment)));
        let wait = if all_four {
            std::time::Duration::from_millis(500)
        } else {
            support::PATIENCE
        };
        match receiver.recv_timeout(wait) {
            Ok(line) => {
                let trimmed = line.trim();
                if trimmed.contains("curl ") && trimmed.contains("# ") {
                    lines.push(trimmed.to_owned());
                }
                heard.push(line);
            }
            Err(_) if all_four => return lines,
            Err(error) => panic!("{error}: four curl lines in {heard:#?}"),
        }
    }
}

/// Runs a pasted line as a shell would, with a curl that writes each status to a file; the last status of the line.
fn last_status_of(line: &str, directory: &Path) -> u16 {
    let statuses = directory.join("statuses");
    let _ = fs::remove_file(&statuses);
    let wrapper = directory.join("curl");
    let real = Command::new("sh")
        .args(["-c", "command -v curl"])
        .output()
        .unwrap();
    let real = String::from_utf8(real.stdout).unwrap();
    fs::write(
        &wrapper,
        format!(
            "#!/bin/sh\nexec {} --stderr /dev/null --write-out '%{{stderr}}' -D - -o /dev/null \"$@\" | sed -n 's/^HTTP[^ ]* \\([0-9]*\\).*/\\1/p' | tee -a {}\n",
            real.trim(),
            statuses.display()
        ),
    )
    .unwrap();
    fs::set_permissions(&wrapper, fs::Permissions::from_mode(0o755)).unwrap();
    let path = format!("{}:{}", directory.display(), std::env::var("PATH").unwrap());
    Command::new("bash")
        .args(["-c", line])
        .env("PATH", path)
        .current_dir(directory)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let text = fs::read_to_string(&statuses).unwrap_or_default();
    text.lines()
        .last()
        .and_then(|word| word.parse().ok())
        .unwrap_or(0)
}
