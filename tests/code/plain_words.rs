//! Counts the wording that CONTRIBUTING.md forbids. `cargo test --test code -- --nocapture` prints the counts.
//!
//! Newcomers know Matrix and Rust, and not this project. CONTRIBUTING.md has the rules; these tests enforce the ones
//! that can be counted.

use std::collections::{BTreeMap, BTreeSet};

use syn::{
    FnArg, ImplItem, ItemConst, ItemEnum, ItemImpl, ItemStatic, ItemStruct, ItemTrait, ItemType,
    Pat, Signature, Type, visit::Visit,
};

use crate::source::{SourceFile, source_files};

/// The share of comments that may open with a relative or a question word, in percent.
const MAX_RELATIVE_OPENINGS_PERCENT: usize = 2;
const RELATIVE_WORDS: [&str; 13] = [
    "What", "Who", "Whom", "Whose", "Whoever", "Whatever", "Which", "That", "Those", "Where",
    "How", "In", "By",
];
/// After `In` and `By`, these make a relative opening.
const RELATIVE_SECOND_WORDS: [&str; 2] = ["which", "whom"];

/// Constants whose name has no unit or no role, in percent.
const MAX_ONE_WORD_CONSTANTS_PERCENT: usize = 10;
/// Type names that two types have, in percent.
const MAX_SHARED_TYPE_NAMES_PERCENT: usize = 5;
const MAX_TUPLE_PARAMETERS: usize = 10;
const MAX_METHODS_OF_A_TYPE: usize = 40;

/// The last words of the names of times, sizes, counts and enumerated values, which may be plain integers. Every other
/// number is an id and has a type.
const QUANTITIES: [&str; 46] = [
    "ts",
    "ms",
    "now",
    "at",
    "since",
    "until",
    "time",
    "times",
    "ago",
    "active",
    "sync",
    "limit",
    "count",
    "uses",
    "size",
    "bytes",
    "width",
    "height",
    "depth",
    "age",
    "kept",
    "keep",
    "most",
    "members",
    "replies",
    "joined",
    "invited",
    "notified",
    "mentioned",
    "notify",
    "highlight",
    "failures",
    "fetches",
    "devices",
    "completed",
    "allowed",
    "added",
    "change",
    "attempt",
    "items",
    "index",
    "etag",
    "visibility",
    "status",
    "stage",
    "number",
];

/// Participles that do not end in "ed".
const IRREGULAR_PARTICIPLES: [&str; 28] = [
    "Built", "Chosen", "Done", "Drawn", "Found", "Given", "Gone", "Grown", "Heard", "Held",
    "Hidden", "Kept", "Known", "Left", "Lost", "Made", "Met", "Proven", "Put", "Read", "Seen",
    "Sent", "Set", "Shown", "Taken", "Told", "Won", "Written",
];

#[test]
fn comments_open_with_a_subject_or_a_verb() {
    let (mut comments, mut relative) = (0, Vec::new());
    for file in source_files() {
        for comment in comments_of(&file.text) {
            comments += 1;
            if opens_with_relative_word(&comment) {
                relative.push(format!("{}: {comment}", file.path));
            }
        }
    }

    println!(
        "comments: {comments}, with a relative opening: {}",
        relative.len()
    );
    let allowed = comments * MAX_RELATIVE_OPENINGS_PERCENT / 100;
    assert!(relative.len() <= allowed, "{}", relative.join("\n"));
}

#[test]
fn constants_have_a_role_and_a_unit() {
    let names = Names::of(&source_files());
    let one_word: Vec<_> = names
        .constants
        .iter()
        .filter(|(_, name)| !name.contains('_'))
        .collect();

    println!(
        "constants: {}, of one word: {}",
        names.constants.len(),
        one_word.len()
    );
    let allowed = names.constants.len() * MAX_ONE_WORD_CONSTANTS_PERCENT / 100;
    assert!(one_word.len() <= allowed, "{one_word:#?}");
}

#[test]
fn types_are_nouns() {
    let names = Names::of(&source_files());
    let participles: Vec<_> = names
        .types
        .keys()
        .filter(|name| is_participle(name))
        .collect();

    println!(
        "types: {}, bare participles: {}",
        names.types.len(),
        participles.len()
    );
    assert!(participles.is_empty(), "{participles:?}");
}

#[test]
fn a_type_name_is_used_once() {
    let names = Names::of(&source_files());
    let shared: Vec<_> = names
        .types
        .iter()
        .filter(|(_, paths)| paths.len() > 1)
        .collect();

    println!(
        "type names: {}, shared: {}",
        names.types.len(),
        shared.len()
    );
    let allowed = names.types.len() * MAX_SHARED_TYPE_NAMES_PERCENT / 100;
    assert!(shared.len() <= allowed, "{shared:#?}");
}

#[test]
fn numbers_have_types() {
    let names = Names::of(&source_files());

    println!("aliases of raw numbers: {}", names.number_aliases.len());
    let found = &names.number_aliases;
    assert!(found.is_empty(), "{found:#?}");
}

#[test]
fn numbers_that_identify_something_have_types() {
    let names = Names::of(&source_files());
    let is_quantity = |name: &str| {
        let last = name.rsplit(['_', ' ']).next().unwrap_or_default();
        QUANTITIES.contains(&last)
    };
    let ids: Vec<_> = names
        .raw_numbers
        .iter()
        .filter(|name| !is_quantity(name))
        .collect();

    println!(
        "raw 64-bit integers: {}, not quantities: {}",
        names.raw_numbers.len(),
        ids.len()
    );
    assert!(ids.is_empty(), "{ids:#?}");
}

#[test]
fn parameters_have_names() {
    let names = Names::of(&source_files());

    println!("tuple parameters: {}", names.tuple_parameters.len());
    let found = &names.tuple_parameters;
    assert!(found.len() <= MAX_TUPLE_PARAMETERS, "{found:#?}");
}

#[test]
fn no_type_has_too_many_methods() {
    let names = Names::of(&source_files());
    let mut counts: Vec<_> = names.methods.iter().collect();
    counts.sort_by_key(|(_, count)| std::cmp::Reverse(**count));

    println!(
        "most methods: {:?}",
        counts.iter().take(8).collect::<Vec<_>>()
    );
    counts.retain(|(_, count)| **count > MAX_METHODS_OF_A_TYPE);
    assert!(counts.is_empty(), "{counts:?}");
}

/// Joins the lines of each comment.
fn comments_of(text: &str) -> Vec<String> {
    let (mut comments, mut lines) = (Vec::new(), Vec::new());
    for line in text.lines().chain([""]) {
        match line.trim_start().strip_prefix("//") {
            Some(rest) => lines.push(rest.trim_start_matches(['/', '!']).trim()),
            None if lines.is_empty() => {}
            None => {
                comments.push(lines.join(" "));
                lines.clear();
            }
        }
    }
    comments
}

fn opens_with_relative_word(comment: &str) -> bool {
    let mut words = comment.split_whitespace();
    let (first, second) = (words.next().unwrap_or_default(), words.next());
    match first {
        "In" | "By" => second.is_some_and(|word| RELATIVE_SECOND_WORDS.contains(&word)),
        word => RELATIVE_WORDS.contains(&word.trim_end_matches([',', ':'])),
    }
}

fn is_participle(name: &str) -> bool {
    let words = name.chars().filter(char::is_ascii_uppercase).count();
    words == 1 && (name.ends_with("ed") || IRREGULAR_PARTICIPLES.contains(&name))
}

/// The declarations of the source that the rules are about.
#[derive(Default)]
struct Names {
    /// The files that declare each type, by the type's name.
    types: BTreeMap<String, Vec<String>>,
    /// File and name.
    constants: BTreeSet<(String, String)>,
    number_aliases: Vec<String>,
    tuple_parameters: Vec<String>,
    /// Fields and parameters that are a raw `i64`, or contain some.
    raw_numbers: Vec<String>,
    /// Methods outside of traits, by folder and type.
    methods: BTreeMap<(String, String), usize>,
    path: String,
}

impl Names {
    fn of(files: &[SourceFile]) -> Self {
        let mut names = Self::default();
        for file in files {
            names.path.clone_from(&file.path);
            names.visit_file(&file.syntax);
        }
        names
    }

    fn add_type(&mut self, name: &syn::Ident) {
        let paths = self.types.entry(name.to_string()).or_default();
        paths.push(self.path.clone());
    }

    fn add_constant(&mut self, name: &syn::Ident) {
        // `const _: () = …` has no name.
        if name != "_" {
            self.constants.insert((self.path.clone(), name.to_string()));
        }
    }

    fn place(&self, name: &syn::Ident) -> String {
        format!("{}: {name}", self.path)
    }
}

impl<'ast> Visit<'ast> for Names {
    fn visit_item_struct(&mut self, item: &'ast ItemStruct) {
        self.add_type(&item.ident);
        syn::visit::visit_item_struct(self, item);
    }

    fn visit_item_enum(&mut self, item: &'ast ItemEnum) {
        self.add_type(&item.ident);
        syn::visit::visit_item_enum(self, item);
    }

    fn visit_item_trait(&mut self, item: &'ast ItemTrait) {
        self.add_type(&item.ident);
        syn::visit::visit_item_trait(self, item);
    }

    fn visit_item_type(&mut self, item: &'ast ItemType) {
        if is_number(&item.ty) {
            self.number_aliases.push(self.place(&item.ident));
        }
    }

    fn visit_item_const(&mut self, item: &'ast ItemConst) {
        self.add_constant(&item.ident);
    }

    fn visit_item_static(&mut self, item: &'ast ItemStatic) {
        self.add_constant(&item.ident);
    }

    fn visit_item_impl(&mut self, item: &'ast ItemImpl) {
        if item.trait_.is_none() {
            self.add_methods(item);
        }
        syn::visit::visit_item_impl(self, item);
    }

    fn visit_field(&mut self, field: &'ast syn::Field) {
        if let Some(name) = &field.ident
            && contains_raw_number(&field.ty)
        {
            self.raw_numbers.push(self.place(name));
        }
    }

    fn visit_signature(&mut self, signature: &'ast Signature) {
        for parameter in &signature.inputs {
            if let FnArg::Typed(typed) = parameter
                && let Pat::Ident(pattern) = &*typed.pat
                && contains_raw_number(&typed.ty)
            {
                self.raw_numbers.push(self.place(&pattern.ident));
            }
            if let FnArg::Typed(typed) = parameter
                && (matches!(*typed.pat, Pat::Tuple(_)) || is_tuple(&typed.ty))
            {
                self.tuple_parameters.push(self.place(&signature.ident));
            }
        }
    }
}

impl Names {
    fn add_methods(&mut self, item: &ItemImpl) {
        let Type::Path(path) = &*item.self_ty else {
            return;
        };
        let Some(name) = path.path.segments.last() else {
            return;
        };
        let folder = self.path.split('/').next().unwrap_or_default().to_owned();
        let methods = item
            .items
            .iter()
            .filter(|item| matches!(item, ImplItem::Fn(_)));
        let count = methods.count();
        *self
            .methods
            .entry((folder, name.ident.to_string()))
            .or_default() += count;
        for constant in &item.items {
            if let ImplItem::Const(constant) = constant {
                self.add_constant(&constant.ident);
            }
        }
    }
}

fn is_number(ty: &Type) -> bool {
    let Type::Path(path) = ty else { return false };
    ["i64", "u64", "i32", "u32"]
        .iter()
        .any(|number| path.path.is_ident(number))
}

/// Returns whether a type is `i64`, or an option, a reference, a list, a map or a tuple of it.
fn contains_raw_number(ty: &Type) -> bool {
    struct RawNumber(bool);
    impl<'ast> Visit<'ast> for RawNumber {
        fn visit_path(&mut self, path: &'ast syn::Path) {
            self.0 |= path.is_ident("i64");
            syn::visit::visit_path(self, path);
        }
    }
    let mut number = RawNumber(false);
    number.visit_type(ty);
    number.0
}

fn is_tuple(ty: &Type) -> bool {
    match ty {
        Type::Tuple(tuple) => !tuple.elems.is_empty(),
        Type::Reference(reference) => is_tuple(&reference.elem),
        _ => false,
    }
}
