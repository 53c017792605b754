//! `vgpu-stub generate`: what a package installs beside the program.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use clap::{CommandFactory, Subcommand};
use clap_complete::Shell;
use vgpu_stub::device::{RegisterMap, Row};
use vgpu_stub::devices::{KINDS, Kind};

use super::failure::Failure;
use super::{Cli, capabilities};

/// Generate man pages, shell completions, register tables or the discovery
/// file.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Write a man page for the program and each command.
    Man {
        /// The directory to write into.
        directory: PathBuf,
    },
    /// Print completions for a shell.
    Completions {
        /// The shell.
        shell: Shell,
    },
    /// Print the registers of all devices as Markdown.
    Registers,
    /// Print the discovery file for /usr/share/vfio-user.
    Discovery {
        /// Where the program is installed.
        #[arg(long, value_name = "PATH", default_value = "/usr/bin/vgpu-stub")]
        binary: PathBuf,
    },
}

pub(super) fn run(args: &Args) -> Result<(), Failure> {
    match &args.what {
        What::Man { directory } => man(directory).map_err(|error| {
            let directory = directory.display();
            Failure::failed(format!(
                "{directory}: cannot write man pages: {error}; name a directory that can be written"
            ))
        }),
        What::Completions { shell } => {
            let mut command = Cli::command();
            clap_complete::generate(*shell, &mut command, "vgpu-stub", &mut io::stdout());
            Ok(())
        }
        What::Registers => {
            print!("{}", registers());
            Ok(())
        }
        What::Discovery { binary } => capabilities::print_discovery(binary),
    }
}

fn man(directory: &Path) -> io::Result<()> {
    fs::create_dir_all(directory)?;
    let command = Cli::command().disable_help_subcommand(true);
    clap_mangen::generate_to(command, directory)
}

fn registers() -> String {
    let head = "# Registers\n\n\
        Made by `vgpu-stub generate registers` from the maps in `src/devices/`.\n\
        All values are little-endian. What is not listed is reserved: it reads as\n\
        all-ones and drops writes. Narrow reads extract, narrow writes of `rw`\n\
        registers keep the other bytes, narrow writes of `wo` registers are dropped;\n\
        an access that covers several registers is split. `shown` and `mapped`\n\
        registers need no exit: see [mapped-registers.md](mapped-registers.md).\n";
    KINDS
        .iter()
        .map(table)
        .fold(head.to_owned(), |text, table| text + &table)
}

fn table(kind: &Kind) -> String {
    let RegisterMap { doc, rows, .. } = kind.registers;
    let head = format!(
        "\n## {}\n\n{}\n\n| offset | name | width | kind | reset | |\n|---|---|---|---|---|---|\n",
        kind.name,
        doc.trim()
    );
    rows.iter().map(row).fold(head, |text, row| text + &row)
}

fn row(row: &Row) -> String {
    let Row {
        offset,
        name,
        width,
        kind,
        sharing,
        reset,
        doc,
    } = row;
    let bits = 8 * width.bytes();
    let kind = format!("{} {}", kind.name(), sharing.name());
    let kind = kind.trim_end();
    format!("| {offset:#05x} | {name} | {bits} | {kind} | {reset:#x} | {doc} |\n")
}
