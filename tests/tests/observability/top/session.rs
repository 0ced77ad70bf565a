//! `sockline top` on a terminal, with what it draws and the keys that it gets.

use std::{
    fs,
    io::{Read as _, Write as _},
    path::PathBuf,
    process::{Child, ChildStdin, Command, Stdio},
    sync::{Arc, Mutex},
    thread,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use sockline_testbed::sockline_binary;

use crate::common::{CART, WebNode, eventually, holds};

/// `sockline top` in a pseudo-terminal of 80 columns and 24 lines, which util-linux's `script` makes.
pub(super) struct Session {
    child: Child,
    keys: ChildStdin,
    output: Arc<Mutex<Vec<u8>>>,
    /// While a test has this locked, the terminal takes output only as long as it fits into buffers.
    pub(super) gate: Arc<Mutex<()>>,
    folder: PathBuf,
}

impl Drop for Session {
    fn drop(&mut self) {
        if self.child.try_wait().is_ok_and(|ended| ended.is_none()) {
            // The file is missing if the test failed before the command began.
            if let Some(pid) = self.pid() {
                let _ = kill(pid, Signal::SIGKILL);
            }
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

impl Session {
    pub(super) fn start(node: &WebNode) -> Self {
        let folder = node.temp().join("top");
        fs::create_dir_all(&folder).unwrap();
        let binary = sockline_binary().unwrap();
        // The shell's process becomes the command's.
        let shell = format!(
            "stty rows 24 cols 80; stty -g >before; sh -c 'echo $$ >pid; exec {} top --interval 200ms'; \
             echo \"status $?\"; stty -g >after; echo over",
            binary.display()
        );
        let mut command = Command::new("script");
        command
            .args(["--quiet", "--flush", "--command", &shell, "/dev/null"])
            .current_dir(&folder)
            .env("TERM", "xterm-256color")
            .env("SOCKLINE_BPF_ROOT", node.bpffs())
            .env("SOCKLINE_ADMIN_SOCKET", node.temp().join("admin.sock"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null());
        let mut child = node.outside().child(&mut command).unwrap();
        let mut stdout = child.stdout.take().unwrap();
        let (output, gate) = (Arc::<Mutex<Vec<u8>>>::default(), Arc::<Mutex<()>>::default());
        let (read, is_open) = (Arc::clone(&output), Arc::clone(&gate));
        thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(length @ 1..) = stdout.read(&mut buffer) {
                read.lock().unwrap().extend_from_slice(&buffer[..length]);
                drop(is_open.lock());
            }
        });
        Self { keys: child.stdin.take().unwrap(), child, output, gate, folder }
    }

    /// Fills the buffers of the terminal, and waits until the command is blocked in drawing.
    pub(super) fn fill(&self, node: &WebNode, pid: Pid) {
        let mut terminal =
            fs::OpenOptions::new().write(true).open(format!("/proc/{pid}/fd/1")).unwrap();
        // More than fits. This blocks, and ends when the test reads again.
        thread::spawn(move || {
            let _ = terminal.write_all(&[b' '; 400_000]);
        });
        let mut waits = 0;
        eventually("it to wait for the terminal", || {
            // Other numbers to draw.
            node.assert_served(CART);
            let call = fs::read_to_string(format!("/proc/{pid}/syscall")).unwrap_or_default();
            // Standard output is the terminal.
            let is_writing = call.starts_with(&format!("{} 0x1 ", libc::SYS_write));
            waits = if is_writing { waits + 1 } else { 0 };
            // A write that does not wait ends between two samples.
            holds(waits > 20, call)
        });
    }

    /// The place in the output that has been reached.
    pub(super) fn drawn_bytes(&self) -> usize {
        self.output.lock().unwrap().len()
    }

    fn raw(&self) -> String {
        String::from_utf8_lossy(&self.output.lock().unwrap()).into_owned()
    }

    /// What was drawn since a place in the output, without escape sequences and blanks: gaps are jumped over.
    pub(super) fn drawn_since(&self, start: usize) -> String {
        let raw = self.output.lock().unwrap()[start..].to_vec();
        let raw = String::from_utf8_lossy(&raw).into_owned();
        let mut characters = raw.chars().filter(|character| !character.is_whitespace());
        let mut drawn = String::new();
        while let Some(character) = characters.next() {
            if character == '\u{1b}' {
                let _ = characters.by_ref().skip(1).find(char::is_ascii_alphabetic);
            } else {
                drawn.push(character);
            }
        }
        drawn
    }

    /// Sends keys and waits until all of this is drawn.
    pub(super) fn press(&mut self, keys: &str, expected: &[&str]) {
        let start = self.drawn_bytes();
        self.send(keys);
        self.wait_for(start, expected);
    }

    pub(super) fn send(&mut self, keys: &str) {
        self.keys.write_all(keys.as_bytes()).unwrap();
        self.keys.flush().unwrap();
    }

    pub(super) fn wait_for(&self, start: usize, expected: &[&str]) {
        eventually(&format!("{expected:?} to be drawn"), || {
            let drawn = self.drawn_since(start);
            holds(expected.iter().all(|part| drawn.contains(part)), drawn.clone())
        });
    }

    /// Fails unless the command has ended with this status and left the terminal as it was.
    pub(super) fn assert_restored(mut self, status: i32) {
        self.assert_ended(status);
        let raw = self.raw();
        // The alternate screen is left, and the cursor shown, after both were changed.
        for (set, unset) in [("\u{1b}[?1049h", "\u{1b}[?1049l"), ("\u{1b}[?25l", "\u{1b}[?25h")] {
            let places = [raw.rfind(set), raw.rfind(unset)];
            assert!(places[0].is_some() && places[0] < places[1], "{unset:?}: {places:?}");
        }
    }

    /// Fails unless the command has ended with this status, and the terminal has the modes from before.
    pub(super) fn assert_ended(&mut self, status: i32) {
        self.wait_for(0, &["over"]);
        self.child.wait().unwrap();
        let raw = self.raw();
        assert!(raw.contains(&format!("status {status}")), "{raw}");
        let modes =
            ["before", "after"].map(|name| fs::read_to_string(self.folder.join(name)).unwrap());
        assert_eq!(modes[0], modes[1], "the terminal's modes");
    }

    pub(super) fn pid(&self) -> Option<Pid> {
        let pid = fs::read_to_string(self.folder.join("pid")).ok()?;
        pid.trim().parse().ok().map(Pid::from_raw)
    }
}
