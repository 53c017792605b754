//! The patches for XCP-ng's qemu package: they carry the shim as it is, and
//! they apply.
//!
//! `UPDATE_PATCHES=1 cargo test --test patches` writes the shim's files into
//! the patches after a change.

#[path = "../rig/mod.rs"]
mod rig;

mod patch;
mod stand_in;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Once;
use std::time::Duration;

use rig::shim_qemu::{OWN_TREE, Shim, glue};
use rig::{RigError, or_skip, process};
use tempfile::TempDir;
use vgpu_stub::debian::Source;

use patch::Patch;

const LIMIT: Duration = Duration::from_secs(120);
const CODE: &str = "hw/misc/vgpu-stub.c";
const HEADER: &str = "hw/misc/vgpu-stub-shm.h";
const TRACE_EVENTS: &str = "hw/misc/trace-events";

fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("qemu-patches")
}

/// The patches, in the order of `series`; brought up to date first where that
/// is wanted.
fn series() -> Vec<PathBuf> {
    static UPDATED: Once = Once::new();
    let text = fs::read_to_string(directory().join("series")).unwrap();
    let patches: Vec<PathBuf> = text.lines().map(|name| directory().join(name)).collect();
    if std::env::var_os("UPDATE_PATCHES").is_some() {
        UPDATED.call_once(|| {
            for path in &patches {
                fs::write(path, of_this_shim(path)).unwrap();
            }
        });
    }
    patches
}

/// What a patch must be.
fn of_this_shim(file: &Path) -> String {
    let shim = Shim::read().unwrap();
    let mut patch = Patch::parse(&fs::read_to_string(file).unwrap());
    patch.set_new_file(CODE, &shim.code);
    patch.set_new_file(HEADER, &shim.header);
    patch.set_addition(TRACE_EVENTS, &shim.trace_events);
    patch.to_string()
}

/// `patch` as rpm calls it, but with no fuzz whatever the distribution's is.
fn apply(patch: &Path, tree: &Path) -> Result<String, RigError> {
    let mut command = Command::new("patch");
    command
        .args(["-p1", "--fuzz=0", "--no-backup-if-mismatch", "-f", "-i"])
        .arg(patch)
        .current_dir(tree);
    process::run(&mut command, LIMIT, "install the package patch")
}

#[test]
fn the_patches_carry_the_shim_as_it_is() {
    for path in series() {
        let name = path.file_name().unwrap().display();
        assert!(
            fs::read_to_string(&path).unwrap() == of_this_shim(&path),
            "{name} is not of this shim: UPDATE_PATCHES=1 cargo test --test patches"
        );
    }
    let names: Vec<_> = fs::read_dir(directory())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.to_string_lossy().ends_with(".XCP-ng.patch"))
        .collect();
    assert_eq!(names.len(), series().len(), "all are in the series");
}

/// The files that the patches change, of `QEMU_SRC` where it is given.
fn tree() -> TempDir {
    let tree = TempDir::new().unwrap();
    let own = std::env::var_os(OWN_TREE).map(PathBuf::from);
    for (file, lines) in stand_in::FILES {
        let path = tree.path().join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        match &own {
            Some(own) => fs::copy(own.join(file), &path).map(drop).unwrap(),
            None => fs::write(&path, lines).unwrap(),
        }
    }
    tree
}

#[test]
fn the_patches_apply_without_fuzz() {
    let tree = tree();
    for patch in series() {
        if or_skip(apply(&patch, tree.path())).is_none() {
            return;
        }
    }
    let shim = Shim::read().unwrap();
    let read = |file: &str| fs::read_to_string(tree.path().join(file)).unwrap();
    assert!(read(CODE) == shim.code, "{CODE}");
    assert!(read(HEADER) == shim.header, "{HEADER}");
    assert!(read(TRACE_EVENTS).ends_with(&shim.trace_events));
    assert!(read("default-configs/i386-softmmu.mak").ends_with("\nCONFIG_VGPU_STUB=y\n"));
}

/// What the tests of the shim build is what a package with the patches builds.
#[test]
fn the_rig_adds_to_a_tree_what_the_patches_add() {
    let (patched, rigged) = (tree(), tree());
    for patch in series() {
        if or_skip(apply(&patch, patched.path())).is_none() {
            return;
        }
    }
    let shim = Shim::read().unwrap();
    // Lines may stand elsewhere; a second time, and on a tree that has the
    // patches, nothing is added.
    let lines = |tree: &TempDir, file: &str| {
        let text = fs::read_to_string(tree.path().join(file)).unwrap();
        let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
        lines.retain(|line| !line.is_empty());
        lines.sort_unstable();
        lines
    };
    let files = || stand_in::FILES.iter().map(|(file, _)| *file);
    let right: Vec<_> = files().map(|file| lines(&patched, file)).collect();
    for tree in [&rigged, &rigged, &patched] {
        glue::add(tree.path(), &[]).unwrap();
        glue::put(tree.path(), &shim).unwrap();
        for (file, right) in files()
            .zip(&right)
            .filter(|(file, _)| *file != "MAINTAINERS")
        {
            assert_eq!(lines(tree, file), *right, "{file}");
        }
    }
}

#[test]
fn qemus_own_checker_has_nothing_to_say() {
    let source = Source::obtain("qemu", "bullseye", process::NEVER);
    let Some(source) = or_skip(source) else {
        return;
    };
    let checker = TempDir::new().unwrap();
    let script = checker.path().join("checkpatch.pl");
    let text = source.file("scripts/checkpatch.pl", process::NEVER);
    fs::write(&script, text.unwrap()).unwrap();
    for patch in series() {
        let mut check = Command::new("perl");
        check
            .arg(&script)
            .args(["--no-tree", "--strict"])
            .arg(&patch);
        let result = check.output().unwrap();
        let said = String::from_utf8_lossy(&result.stdout);
        assert!(
            result.status.success() && said.contains("total: 0 errors, 0 warnings"),
            "{said}"
        );
    }
}

#[test]
fn the_readme_names_every_property_and_trace_event() {
    let shim = Shim::read().unwrap();
    let properties = shim.code.split("DEFINE_PROP_").skip(1).filter_map(|text| {
        let (_, text) = text.lines().next()?.split_once("(\"")?;
        Some(text.split_once('"')?.0)
    });
    let events = shim.trace_events.lines().filter_map(|line| {
        let (name, _) = line.split_once('(')?;
        Some(name)
    });
    let names: Vec<&str> = properties.chain(events).collect();
    assert!(names.contains(&"msg-timeout") && names.contains(&"vgpu_stub_read"));
    let readme = fs::read_to_string(directory().join("README.md")).unwrap();
    for name in names {
        assert!(readme.contains(&format!("`{name}`")), "{name}");
    }
}

#[test]
fn a_package_in_xcp_ngs_shape_takes_the_change_and_prepares() {
    let top = TempDir::new().unwrap();
    stand_in::write_package(top.path());
    if or_skip(apply(&directory().join("qemu.spec.patch"), top.path())).is_none() {
        return;
    }
    for patch in series() {
        let name = patch.file_name().unwrap();
        fs::copy(&patch, top.path().join("SOURCES").join(name)).unwrap();
    }
    let spec = top.path().join("SPECS/qemu.spec");
    let rpm = |program: &str, arguments: &[&str]| {
        let mut command = Command::new(program);
        command
            .args(["--define", &format!("_topdir {}", top.path().display())])
            .args([
                "--define",
                "_default_patch_fuzz 0",
                "--define",
                "dist .xcpng8.3",
            ])
            .args(arguments)
            .arg(&spec);
        process::run(&mut command, LIMIT, "install the package rpm")
    };
    if or_skip(rpm("rpmbuild", &["-bp", "--nodeps"])).is_none() {
        return;
    }
    let shim = Shim::read().unwrap();
    for (file, text) in [(CODE, &shim.code), (HEADER, &shim.header)] {
        let prepared = top.path().join("BUILD/qemu-4.2.1").join(file);
        assert!(fs::read_to_string(prepared).unwrap() == *text, "{file}");
    }
    let version = rpm(
        "rpmspec",
        &["-q", "--srpm", "--qf", "%{evr}\\n%{changelogname}\\n"],
    )
    .unwrap();
    let mut lines = version.lines();
    let release = lines.next().unwrap().strip_prefix("2:4.2.1-").unwrap();
    let release = release.strip_suffix(".xcpng8.3").unwrap();
    assert_eq!(release, "5.2.15.2.0.vgpustub.1");
    assert!(
        lines
            .next()
            .unwrap()
            .ends_with(&format!(" - 4.2.1-{release}"))
    );
    // A private build comes after the release that it is made of, and before
    // the next one, which an update then brings.
    assert_eq!(compare(release, "5.2.15.2"), "newer");
    assert_eq!(
        compare(&format!("{release}.xcpng8.3"), "5.2.15.2.xcpng8.3"),
        "newer"
    );
    assert_eq!(
        compare(&format!("{release}.xcpng8.3"), "5.2.15.2.1.xcpng8.3"),
        "older"
    );
    assert_eq!(
        compare(&format!("{release}.xcpng8.3"), "5.2.15.3.xcpng8.3"),
        "older"
    );
}

/// How rpm sorts two releases.
fn compare(ours: &str, other: &str) -> &'static str {
    let question = format!("%{{lua: print(rpm.vercmp('{ours}', '{other}'))}}");
    let mut rpm = Command::new("rpm");
    let answer = process::run(rpm.args(["--eval", &question]), LIMIT, "install rpm");
    match answer.unwrap().trim() {
        "1" => "newer",
        "-1" => "older",
        _ => "the same",
    }
}
