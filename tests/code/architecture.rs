//! The layers of the server, written down once and enforced.

use std::{collections::BTreeSet, iter};

use syn::{ItemUse, visit::Visit};

use crate::source::{SourceFile, paths_of, segments_of, source_files};

/// The lowest modules, which every other module may import.
const BASE_MODULES: [&str; 9] = [
    "error",
    "clock",
    "config",
    "health",
    "tasks",
    "keyed_semaphore",
    "numbers",
    "outbound",
    "json_web_token",
];

/// Every top-level module, lowest first, and the modules it may import. All modules outside of `BASE_MODULES` may also
/// import those.
const MODULE_LAYERS: [(&str, &[&str]); 24] = [
    ("error", &[]),
    ("clock", &[]),
    ("config", &[]),
    ("health", &[]),
    ("tasks", &["error"]),
    ("keyed_semaphore", &[]),
    ("numbers", &[]),
    ("outbound", &["error"]),
    ("json_web_token", &[]),
    ("matrix", &[]),
    ("storage", &["matrix"]),
    ("mail", &[]),
    ("users", &["matrix", "storage", "mail"]),
    ("devices", &["matrix", "storage"]),
    ("ephemeral", &["matrix", "storage"]),
    ("rooms", &["matrix", "storage"]),
    ("federation", UP_TO_ROOMS),
    ("media", UP_TO_FEDERATION),
    ("calls", UP_TO_FEDERATION),
    ("push", UP_TO_ROOMS_AND_MAIL),
    ("application_services", UP_TO_ROOMS),
    ("workflows", BELOW_WORKFLOWS),
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
const UP_TO_ROOMS_AND_MAIL: &[&str] = &[
    "matrix",
    "storage",
    "mail",
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
const BELOW_WORKFLOWS: &[&str] = &[
    "matrix",
    "storage",
    "users",
    "devices",
    "ephemeral",
    "rooms",
    "federation",
    "application_services",
];
const ABOVE_STORAGE: &[&str] = &[
    "matrix",
    "mail",
    "users",
    "devices",
    "ephemeral",
    "rooms",
    "federation",
    "media",
    "calls",
    "application_services",
    "workflows",
    "sync",
];

/// The module that starts all the others. No other module imports it.
const TOP_MODULE: &str = "cli";

/// The folders of `rooms`, lowest first: each may import those before it, and no others.
const ROOMS_LAYERS: [&str; 6] = ["memory", "read", "unread", "log", "write", "remote"];
/// Folders of `rooms` that must not import each other, although one comes before the other.
const ROOMS_SIBLINGS: [(&str, &str); 1] = [("remote", "write")];

/// The folders of `storage`, and the services that may read and write their tables.
const TABLE_OWNERS: [(&str, &[&str]); 7] = [
    ("application_services", &["application_services"]),
    ("rooms", &["rooms", "users"]),
    ("users", &["users", "rooms", "sync", "push"]),
    ("devices", &["devices", "users", "federation"]),
    ("federation", &["federation", "devices"]),
    ("media", &["media"]),
    ("sync", &["sync"]),
];

#[test]
fn modules_import_only_lower_layers() {
    let mut broken = Vec::new();
    for file in source_files() {
        let module = top_module(&file);
        let Some((_, allowed)) = MODULE_LAYERS.iter().find(|(layer, _)| *layer == module) else {
            continue;
        };
        for path in imports(&file) {
            let import = path.first().map(String::as_str).unwrap_or_default();
            let is_base =
                BASE_MODULES.contains(&import) && !BASE_MODULES.contains(&module.as_str());
            let is_known =
                import == TOP_MODULE || MODULE_LAYERS.iter().any(|(layer, _)| *layer == import);
            let is_allowed = is_base || import == module || allowed.contains(&import);
            if is_known && !is_allowed {
                broken.push(format!("{} imports crate::{import}", file.path));
            }
        }
    }

    assert!(broken.is_empty(), "{}", broken.join("\n"));
}

#[test]
fn every_module_has_its_layer() {
    let files = source_files();

    let modules: BTreeSet<String> = files.iter().map(top_module).collect();
    let missing: Vec<&String> = modules
        .iter()
        .filter(|module| !["lib", "main", TOP_MODULE].contains(&module.as_str()))
        .filter(|module| !MODULE_LAYERS.iter().any(|(layer, _)| layer == module))
        .collect();

    assert!(missing.is_empty(), "{missing:?} have no layer");
}

#[test]
fn folders_of_rooms_import_only_lower_folders() {
    let place = |folder: &str| ROOMS_LAYERS.iter().position(|layer| *layer == folder);
    let mut broken = Vec::new();
    for file in source_files() {
        let path: Vec<&str> = file.path.split('/').collect();
        let ["rooms", folder, _, ..] = path.as_slice() else {
            continue;
        };
        let own = place(folder).unwrap_or_else(|| panic!("{folder} has no layer"));
        for import in imports(&file) {
            let [first, other, ..] = import.as_slice() else {
                continue;
            };
            let is_sibling = ROOMS_SIBLINGS.contains(&(folder, other.as_str()));
            let is_higher = place(other).is_some_and(|place| place > own);
            if first == "rooms" && (is_higher || is_sibling) {
                broken.push(format!("{} imports {}", file.path, import.join("::")));
            }
        }
    }

    assert!(broken.is_empty(), "{}", broken.join("\n"));
}

#[test]
fn tables_are_used_by_their_owners() {
    let mut broken = Vec::new();
    for file in source_files() {
        let module = top_module(&file);
        for import in imports(&file) {
            let [first, folder, ..] = import.as_slice() else {
                continue;
            };
            let owners = TABLE_OWNERS.iter().find(|(tables, _)| tables == folder);
            let is_allowed = owners.is_none_or(|(_, owners)| owners.contains(&module.as_str()));
            if first == "storage" && module != "storage" && !is_allowed {
                broken.push(format!("{} imports {}", file.path, import.join("::")));
            }
        }
    }

    assert!(broken.is_empty(), "{}", broken.join("\n"));
}

#[test]
fn imports_are_found_in_groups_alone_and_in_macros() {
    let code = "use crate::{api::{App, Sender}, clock::Clock,\n    error};
        fn f() { crate::rooms::g(); m!(crate::users::h(1)) }";
    let file = SourceFile {
        path: "a.rs".to_owned(),
        text: String::new(),
        syntax: syn::parse_file(code).expect("the code is valid"),
    };

    let imports = imports(&file);
    let modules: BTreeSet<&str> = imports.iter().map(|path| &*path[0]).collect();
    let expected = ["api", "clock", "error", "rooms", "users"];
    assert_eq!(modules, BTreeSet::from(expected));
}

fn top_module(file: &SourceFile) -> String {
    let module = file.module();
    module.split("::").next().unwrap_or_default().to_owned()
}

/// Returns the paths within the crate that a file names, without `crate`.
fn imports(file: &SourceFile) -> BTreeSet<Vec<String>> {
    let mut collector = Imports {
        module: file.module().split("::").map(str::to_owned).collect(),
        paths: BTreeSet::new(),
    };
    collector.visit_file(&file.syntax);
    collector.paths
}

struct Imports {
    module: Vec<String>,
    paths: BTreeSet<Vec<String>>,
}

impl Imports {
    fn add(&mut self, path: &[String]) {
        let climbs = path
            .iter()
            .take_while(|segment| *segment == "super")
            .count();
        let (base, rest) = match path.first().map(String::as_str) {
            Some("crate") => (0, 1),
            Some("self") => (self.module.len(), 1),
            Some("super") => (self.module.len().saturating_sub(climbs), climbs),
            _ => return,
        };
        self.paths
            .insert([&self.module[..base], &path[rest..]].concat());
    }
}

impl<'ast> Visit<'ast> for Imports {
    fn visit_macro(&mut self, item: &'ast syn::Macro) {
        // The text of a macro is not parsed: paths are found by their beginning.
        let text = item.tokens.to_string();
        for rest in text.split("crate :: ").skip(1) {
            let path = rest.split(" :: ");
            let path = path.map_while(|part| part.split_whitespace().next());
            let path = iter::once("crate").chain(path).map(str::to_owned);
            self.add(&path.collect::<Vec<String>>());
        }
        syn::visit::visit_macro(self, item);
    }

    fn visit_item_use(&mut self, item: &'ast ItemUse) {
        for path in paths_of(&item.tree) {
            self.add(&path);
        }
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        self.add(&segments_of(path));
        syn::visit::visit_path(self, path);
    }
}
