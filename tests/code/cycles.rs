//! Cycles: files that need each other can only be understood together.
//!
//! A file needs another of its top-level folder if it names something from it, or calls a method that is defined
//! there, on `self` or on a field. The `mod.rs` of a folder is left out: it names all of the files, and
//! what they share is declared there.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write,
};

use syn::{
    Expr, ExprMethodCall, Fields, ImplItem, ItemImpl, ItemStruct, ItemUse, Member, Type,
    visit::Visit,
};

use crate::source::{SourceFile, paths_of, segments_of, source_files};

const MAX_FILES_IN_A_CYCLE: usize = 3;

#[test]
fn files_of_a_folder_form_no_long_cycles() {
    let files = source_files();
    let graph = Graph::of(&files);
    let mut cycles = graph.cycles();
    cycles.sort_by_key(|cycle| std::cmp::Reverse(cycle.len()));

    for cycle in &cycles {
        println!("cycle of {}: {}", cycle.len(), cycle.join(", "));
    }
    cycles.retain(|cycle| cycle.len() > MAX_FILES_IN_A_CYCLE);
    assert!(cycles.is_empty(), "{}", graph.explain(&cycles));
}

#[test]
fn a_cycle_is_found_through_a_third_file() {
    let edges = [("a", "b"), ("b", "c"), ("c", "a"), ("c", "d")];
    let mut graph = Graph::default();
    for (from, to) in edges {
        graph.add(from, to);
    }

    assert_eq!(graph.cycles(), [["a", "b", "c"]]);
}

/// The files that each file needs.
#[derive(Default)]
struct Graph {
    needs: BTreeMap<String, BTreeSet<String>>,
}

impl Graph {
    fn of(files: &[SourceFile]) -> Self {
        let declarations = Declarations::of(files);
        let mut graph = Self::default();
        for file in files {
            let mut needs = Needs::new(file, &declarations);
            needs.visit_file(&file.syntax);
            for other in needs.found {
                graph.add(&file.path, &other);
            }
        }
        graph
    }

    fn add(&mut self, from: &str, to: &str) {
        let folder = |path: &str| path.split('/').next().map(str::to_owned);
        let is_mod_file = |path: &str| path.ends_with("mod.rs");
        let in_one_folder = folder(from) == folder(to) || !from.contains('/');
        if from != to && in_one_folder && !is_mod_file(from) && !is_mod_file(to) {
            let needs = self.needs.entry(from.to_owned()).or_default();
            needs.insert(to.to_owned());
        }
    }

    /// Returns the sets of files that can reach each other, each sorted.
    fn cycles(&self) -> Vec<Vec<String>> {
        let reach: BTreeMap<&String, BTreeSet<&String>> = self
            .needs
            .keys()
            .map(|file| (file, self.reachable(file)))
            .collect();
        let mut cycles = BTreeSet::new();
        for (file, reached) in &reach {
            let cycle: Vec<String> = reached
                .iter()
                .filter(|other| reach.get(*other).is_some_and(|back| back.contains(file)))
                .map(|other| (*other).clone())
                .collect();
            if cycle.len() > 1 {
                cycles.insert(cycle);
            }
        }
        cycles.into_iter().collect()
    }

    fn reachable<'a>(&'a self, file: &'a String) -> BTreeSet<&'a String> {
        let (mut reached, mut open) = (BTreeSet::new(), vec![file]);
        while let Some(file) = open.pop() {
            let needed = self.needs.get(file).into_iter().flatten();
            open.extend(needed.filter(|next| reached.insert(*next)));
        }
        reached
    }

    fn explain(&self, cycles: &[Vec<String>]) -> String {
        let mut text = String::new();
        for cycle in cycles {
            for file in cycle {
                let needs = self.needs.get(file).into_iter().flatten();
                let needs: Vec<&str> = needs
                    .filter(|other| cycle.contains(other))
                    .map(String::as_str)
                    .collect();
                let _ = writeln!(text, "{file} needs {}", needs.join(", "));
            }
            text.push('\n');
        }
        text
    }
}

/// The places where modules, names and methods are declared.
#[derive(Default)]
struct Declarations {
    /// The file of each module, by its path.
    modules: BTreeMap<String, String>,
    /// The paths of the names that a module imports, by module and name.
    imports: BTreeMap<(String, String), Vec<String>>,
    /// The files that define a method, by the type's name and the method's.
    methods: BTreeMap<(String, String), BTreeSet<String>>,
    /// The types of the fields that have a name.
    fields: BTreeMap<String, BTreeSet<String>>,
}

impl Declarations {
    fn of(files: &[SourceFile]) -> Self {
        let mut declarations = Self::default();
        for file in files {
            let modules = &mut declarations.modules;
            modules.insert(file.module(), file.path.clone());
        }
        for file in files {
            let mut collector = Collector {
                file,
                declarations: &mut declarations,
            };
            collector.visit_file(&file.syntax);
        }
        declarations
    }

    /// Makes a path absolute, without `crate`. Paths into other crates give `None`.
    fn absolute(&self, path: &[String], module: &str) -> Option<Vec<String>> {
        let mut base: Vec<String> = module.split("::").map(str::to_owned).collect();
        let mut rest = path;
        match rest.first()?.as_str() {
            "crate" => {
                base.clear();
                rest = &rest[1..];
            }
            "self" => rest = &rest[1..],
            "super" => {
                while rest.first().is_some_and(|segment| segment == "super") {
                    base.pop();
                    rest = &rest[1..];
                }
            }
            first if self.modules.contains_key(&format!("{module}::{first}")) => {}
            _ => return None,
        }
        base.extend(rest.iter().cloned());
        Some(base)
    }

    /// Returns the file that declares the end of an absolute path, through re-exports.
    fn file_of(&self, path: &[String], depth: usize) -> Option<&String> {
        let known = (1..=path.len()).rev();
        let (length, module) = known
            .map(|length| (length, path[..length].join("::")))
            .find(|(_, module)| self.modules.contains_key(module))?;
        let import = path
            .get(length)
            .and_then(|name| self.imports.get(&(module.clone(), name.clone())));
        match import {
            Some(target) if depth > 0 => {
                let target = self.absolute(target, &module)?;
                self.file_of(&target, depth - 1)
            }
            _ => self.modules.get(&module),
        }
    }

    fn file_of_method(&self, types: &BTreeSet<String>, method: &str) -> Option<&String> {
        let mut types = types.iter();
        let (only, None) = (types.next()?, types.next()) else {
            return None;
        };
        let files = self.methods.get(&(only.clone(), method.to_owned()))?;
        if files.len() == 1 {
            files.first()
        } else {
            None
        }
    }
}

struct Collector<'a> {
    file: &'a SourceFile,
    declarations: &'a mut Declarations,
}

impl<'ast> Visit<'ast> for Collector<'_> {
    fn visit_item_use(&mut self, item: &'ast ItemUse) {
        for path in paths_of(&item.tree) {
            if let Some(name) = path.last() {
                let key = (self.file.module(), name.clone());
                self.declarations.imports.insert(key, path);
            }
        }
    }

    fn visit_item_struct(&mut self, item: &'ast ItemStruct) {
        let Fields::Named(fields) = &item.fields else {
            return;
        };
        for field in &fields.named {
            if let (Some(name), Some(ty)) = (&field.ident, inner_type(&field.ty)) {
                let types = self
                    .declarations
                    .fields
                    .entry(name.to_string())
                    .or_default();
                types.insert(ty);
            }
        }
    }

    fn visit_item_impl(&mut self, item: &'ast ItemImpl) {
        let (None, Some(ty)) = (&item.trait_, inner_type(&item.self_ty)) else {
            return;
        };
        for item in &item.items {
            if let ImplItem::Fn(method) = item {
                let key = (ty.clone(), method.sig.ident.to_string());
                let files = self.declarations.methods.entry(key).or_default();
                files.insert(self.file.path.clone());
            }
        }
    }
}

/// Collects the files that one file needs.
struct Needs<'a> {
    module: String,
    declarations: &'a Declarations,
    self_type: Option<String>,
    found: BTreeSet<String>,
}

impl<'a> Needs<'a> {
    fn new(file: &SourceFile, declarations: &'a Declarations) -> Self {
        Self {
            module: file.module(),
            declarations,
            self_type: None,
            found: BTreeSet::new(),
        }
    }

    fn add_path(&mut self, path: &[String]) {
        let absolute = self.declarations.absolute(path, &self.module);
        let file = absolute.and_then(|path| self.declarations.file_of(&path, 5));
        self.found.extend(file.cloned());
    }

    /// Returns the types that the receiver of a call can have, by its last name.
    fn types_of(&self, receiver: &Expr) -> BTreeSet<String> {
        match receiver {
            Expr::Path(path) if path.path.is_ident("self") => {
                self.self_type.clone().into_iter().collect()
            }
            Expr::Field(field) => match &field.member {
                Member::Named(name) => {
                    let types = self.declarations.fields.get(&name.to_string());
                    types.cloned().unwrap_or_default()
                }
                Member::Unnamed(_) => BTreeSet::new(),
            },
            _ => BTreeSet::new(),
        }
    }
}

impl<'ast> Visit<'ast> for Needs<'_> {
    fn visit_item_use(&mut self, item: &'ast ItemUse) {
        for path in paths_of(&item.tree) {
            self.add_path(&path);
        }
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        let segments = segments_of(path);
        if segments.len() > 1 {
            self.add_path(&segments);
        }
        syn::visit::visit_path(self, path);
    }

    fn visit_item_impl(&mut self, item: &'ast ItemImpl) {
        self.self_type = inner_type(&item.self_ty);
        syn::visit::visit_item_impl(self, item);
        self.self_type = None;
    }

    fn visit_expr_method_call(&mut self, call: &'ast ExprMethodCall) {
        let types = self.types_of(&call.receiver);
        let file = self
            .declarations
            .file_of_method(&types, &call.method.to_string());
        self.found.extend(file.cloned());
        syn::visit::visit_expr_method_call(self, call);
    }
}

/// Returns the name of a type, or of the type in its `Arc`, `Box` or reference.
fn inner_type(ty: &Type) -> Option<String> {
    match ty {
        Type::Reference(reference) => inner_type(&reference.elem),
        Type::Path(path) => {
            let last = path.path.segments.last()?;
            let is_pointer = last.ident == "Arc" || last.ident == "Box";
            let argument = match &last.arguments {
                syn::PathArguments::AngleBracketed(arguments) if is_pointer => {
                    arguments.args.first()
                }
                _ => None,
            };
            match argument {
                Some(syn::GenericArgument::Type(ty)) => inner_type(ty),
                _ => Some(last.ident.to_string()),
            }
        }
        _ => None,
    }
}
