//! Builds the chat page in `web/` with Node, and writes a list of its files, which `src/api/web.rs` embeds.
//!
//! Without Node the list is empty, and the server says at `/` that it has no chat page.
#![expect(
    clippy::disallowed_methods,
    reason = "a build script is configured by the environment"
)]

use std::{
    env,
    error::Error,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// The sources of the page.
const SOURCES: [&str; 6] = [
    "web/index.html",
    "web/package-lock.json",
    "web/package.json",
    "web/public",
    "web/src",
    "web/vite.config.ts",
];

fn main() -> Result<()> {
    for source in SOURCES {
        println!("cargo::rerun-if-changed={source}");
    }
    println!("cargo::rerun-if-env-changed=PARLOUR_WITHOUT_PAGE");
    let out = PathBuf::from(env::var("OUT_DIR")?);
    let page = out.join("page");
    if page.exists() {
        fs::remove_dir_all(&page)?;
    }
    if env::var_os("PARLOUR_WITHOUT_PAGE").is_none()
        && let Err(error) = build(&page)
    {
        println!("cargo::warning=The chat page is left out: {error}");
    }
    fs::write(out.join("page.rs"), list(&page)?)?;
    Ok(())
}

fn build(page: &Path) -> Result<()> {
    if Command::new("npm").arg("--version").output().is_err() {
        return Err("Node and npm are needed to build it".into());
    }
    install()?;
    let page = page.to_string_lossy();
    run(
        "npm",
        &[
            "exec",
            "--offline",
            "--",
            "vite",
            "build",
            "--outDir",
            &page,
            "--emptyOutDir",
        ],
    )
}

/// Installs the packages of the lock file, unless they are already installed.
fn install() -> Result<()> {
    let wanted = fs::read_to_string("web/package-lock.json")?;
    let marker = Path::new("web/node_modules/.installed-for");
    if fs::read_to_string(marker).is_ok_and(|installed| installed == wanted) {
        return Ok(());
    }
    run("npm", &["ci", "--no-audit", "--no-fund"])?;
    fs::write(marker, wanted)?;
    Ok(())
}

/// Runs a command in `web/`, and shows its output only if it fails.
fn run(program: &str, arguments: &[&str]) -> Result<()> {
    let output = Command::new(program)
        .args(arguments)
        .current_dir("web")
        .output()?;
    if output.status.success() {
        return Ok(());
    }
    let told = String::from_utf8_lossy(&output.stderr).replace('\n', " ");
    Err(format!("`{program} {}` failed: {told}", arguments.join(" ")).into())
}

/// Writes a Rust list of the files: the path at which each is served, and its bytes.
fn list(page: &Path) -> Result<String> {
    let mut files = Vec::new();
    if page.exists() {
        find(page, &mut files)?;
    }
    let mut entries = Vec::new();
    for file in files {
        let path = file
            .strip_prefix(page)?
            .to_string_lossy()
            .replace('\\', "/");
        let entry = format!(
            "({path:?}, include_bytes!({:?})),\n",
            file.to_string_lossy()
        );
        entries.push((path, entry));
    }
    // The server finds a path by binary search.
    entries.sort();
    let entries: String = entries.into_iter().map(|(_, entry)| entry).collect();
    Ok(format!("&[\n{entries}]\n"))
}

fn find(folder: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            find(&path, files)?;
        } else {
            files.push(path);
        }
    }
    Ok(())
}
