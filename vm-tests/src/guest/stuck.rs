//! Tells, on the console, what everybody waits for when a scenario does not come to its end.
//!
//! A machine that hangs is ended by the host when its time is over, and its log says nothing of why. So a little before,
//! every thread's name, state, kernel stack and system call are printed, and the end of the agent's log.

use super::product::AGENT_LOG;
use crate::machine::{AGENT_MARK, STUCK_MARK};
use std::fs;
use std::path::Path;
use std::time::Duration;

/// How much of the agent's log is told, in lines.
const LOG_LINES: usize = 40;

/// Watches from a thread of its own, until the machine ends.
pub(super) fn watch(limit: Duration) {
    std::thread::spawn(move || {
        std::thread::sleep(limit * 3 / 4);
        eprintln!("{STUCK_MARK}");
        for process in numbers("/proc") {
            for thread in numbers(&format!("/proc/{process}/task")) {
                tell(&format!("/proc/{process}/task/{thread}"));
            }
        }
        let log = fs::read_to_string(AGENT_LOG).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        for line in &lines[lines.len().saturating_sub(LOG_LINES)..] {
            eprintln!("{AGENT_MARK}{line}");
        }
    });
}

/// One thread. Those of the kernel that wait for work are left out: there are many, and they tell nothing.
fn tell(folder: &str) {
    let read = |name: &str| fs::read_to_string(format!("{folder}/{name}")).unwrap_or_default();
    let status = read("status");
    let field = |name: &str| {
        let value = status.lines().find_map(|line| line.strip_prefix(name));
        value.unwrap_or("").trim().to_owned()
    };
    let of_the_kernel = field("VmSize:").is_empty();
    if of_the_kernel && field("State:").starts_with(['I', 'S']) {
        return;
    }
    eprintln!("{folder} {} {} syscall {}", field("Name:"), field("State:"), read("syscall").trim());
    for frame in read("stack").lines() {
        eprintln!("    {frame}");
    }
}

fn numbers(folder: &str) -> Vec<u32> {
    let entries = fs::read_dir(Path::new(folder)).into_iter().flatten().flatten();
    let mut all: Vec<u32> = entries.filter_map(|e| e.file_name().to_str()?.parse().ok()).collect();
    all.sort_unstable();
    all
}
