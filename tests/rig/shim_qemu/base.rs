//! A tree that was configured and built once and stays, to build a shim in.

use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use super::super::cache::{self, Lock, io_failed};
use super::super::{RigError, process};
use super::libraries::Libraries;
use super::plan::{Plan, Tree};
use super::{Shim, glue};

/// Increase when what an earlier version of this code built is of no use.
const VERSION: u32 = 1;

/// Alone on two cores it is three minutes; others may be building too.
const BUILD_LIMIT: Duration = Duration::from_secs(40 * 60);
const CONFIGURE_LIMIT: Duration = Duration::from_secs(5 * 60);

/// A built tree's place.
pub(super) struct Base {
    home: PathBuf,
    recipe: String,
    path: PathBuf,
}

impl Base {
    pub(super) fn of(plan: &Plan) -> Result<Self, RigError> {
        let home = cache::directory()?.join("shim");
        fs::create_dir_all(&home).map_err(io_failed("cannot make", &home))?;
        let source = match &plan.tree {
            Tree::Debian(source) => source.name(),
            Tree::Own(path) => format!("{} {:016x}", path.display(), fingerprint(path)?),
        };
        let libraries = match &plan.libraries {
            Some(_) => Libraries::recipe(),
            None => String::new(),
        };
        let recipe = format!(
            "{VERSION} {} {source} {:?} {:?} {libraries}",
            plan.name, plan.options, plan.devices
        );
        let path = home.join(format!("{}-base-{}", plan.name, cache::key(&recipe)));
        Ok(Self { home, recipe, path })
    }

    /// Where all of this is kept.
    pub(super) fn home(&self) -> &Path {
        &self.home
    }

    /// All that it is made of.
    pub(super) fn recipe(&self) -> &str {
        &self.recipe
    }

    /// Builds QEMU with the shim and copies the program to `result`.
    pub(super) fn build(&self, plan: &Plan, shim: &Shim, result: &Path) -> Result<(), RigError> {
        let _lock = Lock::alone(&self.path.with_extension("lock"))?;
        let source = self.path.join("source");
        // In place, not beside it: configured trees cannot be moved.
        cache::fill(&self.path, &self.recipe, || {
            match &plan.tree {
                Tree::Debian(package) => package.unpack(&source, process::NEVER)?,
                Tree::Own(own) => copy(own, &source)?,
            }
            glue::add(&source, plan.devices)?;
            glue::put(&source, &Shim::empty())?;
            self.configure(plan)?;
            self.run_build(plan).map(drop)
        })?;
        glue::put(&source, shim)?;
        let said = self.run_build(plan)?;
        let complaints: Vec<&str> = said
            .lines()
            .filter(|line| line.contains("misc/vgpu-stub") && line.contains("warning:"))
            .collect();
        if !complaints.is_empty() {
            // Or the next build would have nothing to say about it.
            glue::put(&source, &Shim::empty())?;
            return Err(RigError::failed(
                format!("the shim compiles with warnings in {}", plan.name),
                complaints.join("\n"),
            ));
        }
        let program = self.program(plan);
        fs::copy(&program, result)
            .map(drop)
            .map_err(io_failed("cannot copy", &program))
    }

    fn configure(&self, plan: &Plan) -> Result<(), RigError> {
        let build = self.build_directory();
        fs::create_dir_all(&build).map_err(io_failed("cannot make", &build))?;
        let mut configure = Command::new("../source/configure");
        configure.args(&plan.options).current_dir(&build);
        if let Some(libraries) = &plan.libraries {
            libraries.prepare(&mut configure, &self.path)?;
        }
        process::run(&mut configure, CONFIGURE_LIMIT, "install the package bash").map(drop)
    }

    /// What the build said.
    fn run_build(&self, plan: &Plan) -> Result<String, RigError> {
        let directory = self.build_directory();
        // Compilers complain on one stream, ninja repeats it on the other.
        let mut build = Command::new("sh");
        build.args(["-c", "exec \"$@\" >build.log 2>&1", "sh"]);
        if directory.join("build.ninja").exists() {
            build.args(["ninja", plan.program]);
        } else {
            let cores = std::thread::available_parallelism().map_or(1, usize::from);
            // As the rule for all targets of 4.2 names it.
            let target = plan.program.trim_start_matches("qemu-system-");
            build.args([
                "make",
                &format!("-j{cores}"),
                &format!("{target}-softmmu/all"),
            ]);
        }
        build.current_dir(&directory);
        if let Some(libraries) = &plan.libraries {
            libraries.prepare(&mut build, &self.path)?;
        }
        let result = process::run(&mut build, BUILD_LIMIT, "install the package dash");
        let log = directory.join("build.log");
        let said = fs::read(&log).map_err(io_failed("cannot read", &log))?;
        let said = String::from_utf8_lossy(&said).into_owned();
        match result {
            Ok(_) => Ok(said),
            Err(RigError::Failed { what, why }) => Err(RigError::failed(
                format!("cannot build {}: {what}", plan.name),
                why + &reasons(&said),
            )),
            Err(missing) => Err(missing),
        }
    }

    fn build_directory(&self) -> PathBuf {
        self.path.join("build")
    }

    fn program(&self, plan: &Plan) -> PathBuf {
        let directory = self.build_directory();
        let own = directory.join(plan.program);
        if own.exists() {
            return own;
        }
        let target = plan.program.trim_start_matches("qemu-system-");
        directory
            .join(format!("{target}-softmmu"))
            .join(plan.program)
    }
}

/// The lines of a failed build that say why, if there are such.
fn reasons(said: &str) -> String {
    let telling = |line: &&str| line.contains("error:") || line.contains("undefined reference");
    let lines: Vec<&str> = said.lines().filter(telling).collect();
    if lines.is_empty() {
        said.to_owned()
    } else {
        lines.join("\n")
    }
}

/// A copy of a tree without its history.
fn copy(from: &Path, to: &Path) -> Result<(), RigError> {
    let mut copy = Command::new("cp");
    copy.arg("-a").arg(from).arg(to);
    process::run(&mut copy, CONFIGURE_LIMIT, "install the package coreutils")?;
    let history = to.join(".git");
    if history.is_dir() {
        fs::remove_dir_all(&history).map_err(io_failed("cannot remove", &history))?;
    }
    Ok(())
}

/// A number that changes when a file of the tree does.
fn fingerprint(tree: &Path) -> Result<u64, RigError> {
    let mut hasher = DefaultHasher::new();
    let mut directories = vec![tree.to_owned()];
    while let Some(directory) = directories.pop() {
        let failed = || io_failed("cannot read", &directory);
        let mut entries = fs::read_dir(&directory)
            .and_then(Iterator::collect::<Result<Vec<_>, _>>)
            .map_err(failed())?;
        entries.sort_by_key(fs::DirEntry::file_name);
        for entry in entries {
            let path = entry.path();
            let about = entry.metadata().map_err(failed())?;
            if !about.is_dir() {
                (&path, about.len(), about.modified().ok()).hash(&mut hasher);
            } else if entry.file_name() != ".git" {
                directories.push(path);
            }
        }
    }
    Ok(hasher.finish())
}
