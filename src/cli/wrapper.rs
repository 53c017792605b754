//! `qemu-wrapper`: what xenopsd and xl start in place of the stock one.

use std::ffi::{OsStr, OsString};
use std::path::Path;
use std::process::ExitCode;

use vgpu_stub::host::launch;

/// Whether the program was called by the wrapper's name.
pub(super) fn is_called(name: Option<&OsStr>) -> bool {
    let file = name.and_then(|name| Path::new(name).file_name());
    file == Some(OsStr::new("qemu-wrapper"))
}

/// Becomes the stock wrapper, or fails.
pub(super) fn run(arguments: impl Iterator<Item = OsString>) -> ExitCode {
    let launch::Failed = launch::wrapper(arguments.collect());
    ExitCode::FAILURE
}
