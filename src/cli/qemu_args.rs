//! `vgpu-stub qemu-args`: a command line for QEMU that works as it is.

use std::path::{Path, PathBuf, absolute};

use super::failure::Failure;

/// Print a complete command line for QEMU >= 10.1.1.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The socket that a server listens on.
    #[arg(long, value_name = "PATH")]
    socket_path: PathBuf,

    /// The guest's memory in MiB, shared with the device.
    #[arg(long, value_name = "MIB", default_value_t = 512)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=1024 * 1024))]
    memory: u32,
}

pub(super) fn run(args: &Args) -> Result<(), Failure> {
    println!("{}", command_line(&args.socket_path, args.memory)?);
    Ok(())
}

fn command_line(socket: &Path, memory: u32) -> Result<String, Failure> {
    let socket = absolute(socket)
        .map_err(|error| Failure::usage(format!("{}: {error}", socket.display())))?;
    let Some(socket) = socket.to_str() else {
        let path = socket.display();
        return Err(Failure::usage(format!(
            "{path}: QEMU takes UTF-8 paths only; choose another --socket-path"
        )));
    };
    let device = serde_json::json!({
        "driver": "vfio-user-pci",
        "socket": { "path": socket, "type": "unix" },
    });
    // Guest memory in a memfd: the device copies it instead of asking QEMU.
    Ok(format!(
        "qemu-system-x86_64 -accel kvm -accel tcg -machine q35,memory-backend=ram -m {memory} \
         -object memory-backend-memfd,id=ram,size={memory}M,share=on \
         -device {}",
        quote(&device.to_string())
    ))
}

/// Quotes a word for a POSIX shell.
fn quote(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_with_quotes_survives_json_and_shell() {
        let line = command_line(Path::new("/run/it's \"mine\""), 64).unwrap();
        assert!(line.ends_with(
            r#"-device '{"driver":"vfio-user-pci","socket":{"path":"/run/it'\''s \"mine\"","type":"unix"}}'"#
        ));
    }
}
