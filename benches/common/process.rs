//! Memory and processor time of a process, as reported by the operating system.

use std::fs;

/// Length of one tick of processor time in milliseconds, on every Linux that is in use.
const TICK_MS: f64 = 10.0;

/// Returns the resident memory of a process in MiB.
pub(crate) fn memory_mib(id: u32) -> f64 {
    let status = read_proc_file(id, "status");
    let line = status.lines().find(|line| line.starts_with("VmRSS:"));
    let kib = line.and_then(|line| line.split_whitespace().nth(1));
    kib.and_then(|kib| kib.parse::<f64>().ok()).expect("a size") / 1024.0
}

/// Returns the processor time that a process has used, in milliseconds.
pub(crate) fn cpu_ms(id: u32) -> f64 {
    let stat = read_proc_file(id, "stat");
    // The name of the program, in parentheses, may contain spaces.
    let (_, fields) = stat.rsplit_once(") ").expect("the name is in parentheses");
    let fields: Vec<&str> = fields.split(' ').collect();
    let ticks = |at: usize| fields[at].parse::<f64>().expect("a count of ticks");
    let (user, system) = (11, 12);
    (ticks(user) + ticks(system)) * TICK_MS
}

fn read_proc_file(id: u32, what: &str) -> String {
    let path = format!("/proc/{id}/{what}");
    fs::read_to_string(path).expect("the process is running")
}
