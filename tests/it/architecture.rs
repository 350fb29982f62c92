//! The layers of the server, written down once and enforced.

use std::{
    fs,
    path::{Path, PathBuf},
};

/// What lies at the bottom: every layer may import these.
const BASE: [&str; 7] = [
    "error",
    "clock",
    "config",
    "health",
    "tasks",
    "keyed_semaphore",
    "outbound",
];

/// Every other top-level module, lowest first, and the modules it may import beside `BASE`.
const LAYERS: [(&str, &[&str]); 20] = [
    ("error", &[]),
    ("clock", &[]),
    ("config", &[]),
    ("health", &[]),
    ("tasks", &["error"]),
    ("keyed_semaphore", &[]),
    ("outbound", &["error"]),
    ("matrix", &[]),
    ("storage", &["matrix"]),
    ("users", &["matrix", "storage"]),
    ("devices", &["matrix", "storage"]),
    ("ephemeral", &["matrix", "storage"]),
    ("rooms", &["matrix", "storage"]),
    ("federation", UP_TO_ROOMS),
    ("media", UP_TO_FEDERATION),
    ("push", UP_TO_FEDERATION),
    ("appservices", UP_TO_FEDERATION),
    ("workflows", UP_TO_FEDERATION),
    ("sync", UP_TO_ROOMS),
    ("api", ABOVE_STORAGE),
];
const UP_TO_ROOMS: &[&str] = &[
    "matrix",
    "storage",
    "users",
    "devices",
    "ephemeral",
    "rooms",
];
const UP_TO_FEDERATION: &[&str] = &[
    "matrix",
    "storage",
    "users",
    "devices",
    "ephemeral",
    "rooms",
    "federation",
];
const ABOVE_STORAGE: &[&str] = &[
    "matrix",
    "users",
    "devices",
    "ephemeral",
    "rooms",
    "federation",
    "media",
    "push",
    "appservices",
    "workflows",
    "sync",
];

/// Built of all the others, and imported by none.
const TOP: &str = "cli";

#[test]
fn modules_import_only_lower_layers() {
    let mut broken = Vec::new();
    for (module, allowed) in LAYERS {
        for path in files_of(module) {
            for import in imports(&code(&path)) {
                let is_base = BASE.contains(&import.as_str()) && !BASE.contains(&module);
                let is_known = import == TOP || LAYERS.iter().any(|(m, _)| *m == import);
                let is_allowed = is_base || import == module || allowed.contains(&import.as_str());
                if is_known && !is_allowed {
                    broken.push(format!("{} imports crate::{import}", path.display()));
                }
            }
        }
    }

    assert!(broken.is_empty(), "{}", broken.join("\n"));
}

#[test]
fn every_module_has_its_layer() {
    let lib = fs::read_to_string(root().join("lib.rs")).expect("lib.rs is readable");

    let declared = lib.lines().filter_map(|line| line.strip_prefix("pub mod "));
    let missing: Vec<&str> = declared
        .map(|module| module.trim_end_matches(';'))
        .filter(|module| *module != TOP && !LAYERS.iter().any(|(m, _)| m == module))
        .collect();

    assert!(missing.is_empty(), "{missing:?} have no layer");
}

#[test]
fn imports_are_found_in_groups_and_alone() {
    let code =
        "use crate::{api::{App, Sender}, clock::Clock,\n    error};\nfn f() { crate::rooms::g() }";

    assert_eq!(imports(code), ["api", "clock", "error", "rooms"]);
}

pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

fn files_of(module: &str) -> Vec<PathBuf> {
    let mut files = sources(&root().join(module));
    files.push(root().join(format!("{module}.rs")));
    // Tests may build what they like.
    files.retain(|path| path.exists() && !path.ends_with("tests.rs"));
    files
}

pub(crate) fn sources(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let Ok(entries) = fs::read_dir(folder) else {
        return found;
    };
    for entry in entries {
        let path = entry.expect("src is readable").path();
        if path.is_dir() {
            found.extend(sources(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
    found
}

/// The code of a file, without its inline tests and comments.
pub(crate) fn code(path: &Path) -> String {
    let text = fs::read_to_string(path).expect("source is UTF-8");
    let code = text.split("#[cfg(test)]\nmod ").next().unwrap_or_default();
    let lines = code
        .lines()
        .filter(|line| !line.trim_start().starts_with("//"));
    lines.collect::<Vec<_>>().join("\n")
}

/// The top-level modules named in `crate::x` and `crate::{x, y::…}`.
fn imports(code: &str) -> Vec<String> {
    let mut found = Vec::new();
    for rest in code.split("crate::").skip(1) {
        match rest.strip_prefix('{') {
            Some(group) => found.extend(names_in_group(group)),
            None => found.push(name_at(rest)),
        }
    }
    found.retain(|name| !name.is_empty());
    found
}

fn names_in_group(group: &str) -> Vec<String> {
    let (mut names, mut depth, mut is_item) = (Vec::new(), 0, true);
    for (at, c) in group.char_indices() {
        if is_item && !c.is_whitespace() {
            names.push(name_at(&group[at..]));
            is_item = false;
        }
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => is_item = true,
            _ => {}
        }
    }
    names
}

fn name_at(text: &str) -> String {
    let text = text.trim_start().chars();
    text.take_while(|c| c.is_alphanumeric() || *c == '_')
        .collect()
}
