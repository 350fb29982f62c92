//! The files of `src`, as text and as syntax trees, without their tests.

use std::{
    fs,
    path::{Path, PathBuf},
};

use syn::{Attribute, Item, UseTree};

/// A file of `src`.
pub(crate) struct SourceFile {
    /// The path below `src`, such as `rooms/read/timeline.rs`.
    pub(crate) path: String,
    pub(crate) text: String,
    /// The items, without those that only tests compile.
    pub(crate) syntax: syn::File,
}

impl SourceFile {
    /// Returns the path of the module, such as `rooms::read::timeline`.
    pub(crate) fn module(&self) -> String {
        let path = self.path.trim_end_matches(".rs").trim_end_matches("/mod");
        path.replace('/', "::")
    }
}

/// Parses all files of `src` that are not tests, in the order of their paths.
pub(crate) fn source_files() -> Vec<SourceFile> {
    let mut files: Vec<SourceFile> = paths(&root()).iter().map(|path| parse(path)).collect();
    files.retain(|file| !file.path.ends_with("tests.rs") && !file.path.contains("/tests/"));
    files.sort_by(|a, b| a.path.cmp(&b.path));
    assert!(files.len() > 100, "most of src is missing");
    files
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

fn paths(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).expect("src is readable") {
        let path = entry.expect("src is readable").path();
        if path.is_dir() {
            found.extend(paths(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
    found
}

fn parse(path: &Path) -> SourceFile {
    let text = fs::read_to_string(path).expect("source is UTF-8");
    let mut syntax = syn::parse_file(&text).expect("source compiles");
    syntax.items.retain(|item| !is_test(item));
    let path = path.strip_prefix(root()).expect("below src");
    SourceFile {
        path: path.to_string_lossy().into_owned(),
        text,
        syntax,
    }
}

fn is_test(item: &Item) -> bool {
    let attributes: &[Attribute] = match item {
        Item::Fn(item) => &item.attrs,
        Item::Impl(item) => &item.attrs,
        Item::Mod(item) => &item.attrs,
        Item::Use(item) => &item.attrs,
        Item::Const(item) => &item.attrs,
        Item::Struct(item) => &item.attrs,
        _ => &[],
    };
    attributes.iter().any(is_cfg_test)
}

fn is_cfg_test(attribute: &Attribute) -> bool {
    attribute.path().is_ident("cfg")
        && attribute
            .parse_args::<syn::Path>()
            .is_ok_and(|condition| condition.is_ident("test"))
}

/// Returns the paths of an import, one for each name.
pub(crate) fn paths_of(tree: &UseTree) -> Vec<Vec<String>> {
    let below = |name: String, tree: &UseTree| {
        let paths = paths_of(tree).into_iter();
        paths
            .map(move |path| [vec![name.clone()], path].concat())
            .collect()
    };
    match tree {
        UseTree::Path(path) => below(path.ident.to_string(), &path.tree),
        UseTree::Name(name) if name.ident == "self" => vec![Vec::new()],
        UseTree::Name(name) => vec![vec![name.ident.to_string()]],
        UseTree::Rename(rename) => vec![vec![rename.ident.to_string()]],
        UseTree::Glob(_) => vec![Vec::new()],
        UseTree::Group(group) => group.items.iter().flat_map(paths_of).collect(),
    }
}

pub(crate) fn segments_of(path: &syn::Path) -> Vec<String> {
    let segments = path.segments.iter();
    segments.map(|segment| segment.ident.to_string()).collect()
}
