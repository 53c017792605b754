//! Who calls, and for which domain: what xenopsd and libxl put into the
//! arguments. They are only looked at.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

/// A domain's id is below `DOMID_FIRST_RESERVED`.
const FIRST_RESERVED: u16 = 0x7ff0;

/// Who calls the wrapper.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Caller {
    /// xenopsd: the domain's id comes first.
    Xenopsd,
    /// libxl: the arguments are QEMU's.
    Libxl,
}

/// A call of the wrapper.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Call {
    pub(super) caller: Caller,
    /// None: nothing is started for a domain.
    pub(super) domain: Option<u16>,
}

impl Call {
    /// Looks at the arguments, without the program's name.
    pub(super) fn of(arguments: &[OsString]) -> Call {
        let first = arguments.first().map(|first| first.as_encoded_bytes());
        if let Some(first) = first
            && !first.is_empty()
            && first.iter().all(u8::is_ascii_digit)
        {
            let caller = Caller::Xenopsd;
            return Call {
                caller,
                domain: domain(&arguments[0]),
            };
        }
        let mut pairs = arguments.windows(2);
        let found = pairs.find(|pair| pair[0] == "-xen-domid");
        Call {
            caller: Caller::Libxl,
            domain: found
                .and_then(|pair| domain(&pair[1]))
                // libxl asks a device model what it can do first.
                .filter(|_| !asks_only(arguments)),
        }
    }
}

fn domain(text: &OsStr) -> Option<u16> {
    let number = text.to_str()?.parse().ok()?;
    (1..FIRST_RESERVED).contains(&number).then_some(number)
}

/// Whether a QEMU with these arguments only tells what it can do: no machine,
/// or lists and versions.
pub(super) fn asks_only(arguments: &[OsString]) -> bool {
    let no_machine = |pair: &[OsString]| {
        let none = pair[1].as_encoded_bytes();
        (pair[0] == "-machine" || pair[0] == "-M" || pair[0] == "--machine")
            && (none == b"none" || none.starts_with(b"none,"))
    };
    let lists = |argument: &OsString| {
        let asks = [
            "-version",
            "--version",
            "-help",
            "--help",
            "-h",
            "help",
            "?",
        ];
        asks.iter().any(|ask| argument == ask) || argument.as_encoded_bytes().ends_with(b",help")
    };
    arguments.windows(2).any(no_machine) || arguments.iter().any(lists)
}

/// The socket that xenopsd waits for QEMU on, which is among the arguments.
pub(super) fn event_socket(arguments: &[OsString], domain: u16) -> Option<PathBuf> {
    let name = format!("qmp-event-{domain}");
    arguments.iter().find_map(|argument| {
        let path = argument.to_str()?.strip_prefix("unix:")?;
        let path = Path::new(path.split(',').next()?);
        (path.file_name()? == name.as_str()).then(|| path.to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arguments(text: &str) -> Vec<OsString> {
        text.split(' ').map(OsString::from).collect()
    }

    fn call(text: &str) -> (Caller, Option<u16>) {
        let call = Call::of(&arguments(text));
        (call.caller, call.domain)
    }

    #[test]
    fn xenopsd_gives_the_domain_first() {
        let line = "7 --syslog -xen-domid 7 -nodefaults";
        assert_eq!(call(line), (Caller::Xenopsd, Some(7)));
        for line in ["0 --syslog", "32752 --syslog", "99999999999 --syslog"] {
            assert_eq!(call(line), (Caller::Xenopsd, None));
        }
    }

    #[test]
    fn libxl_gives_it_among_qemus_arguments() {
        let line = "-xen-domid 12 -no-shutdown -machine xenfv";
        assert_eq!(call(line), (Caller::Libxl, Some(12)));
        for line in [
            "-xen-domid",
            "-xen-domid x",
            "-xen-domid -1",
            "",
            "-xen-domid 70000",
        ] {
            assert_eq!(call(line), (Caller::Libxl, None));
        }
        assert_eq!(Call::of(&[]).domain, None);
    }

    #[test]
    fn a_probe_is_for_no_domain() {
        for line in [
            "-xen-domid 1 -machine none",
            "-S -no-user-config -nodefaults -nographic -machine none,accel=kvm:tcg -qmp unix:/x",
            "-xen-domid 1 -device help",
            "-xen-domid 1 -device vgpu-stub,help",
            "-version",
        ] {
            assert_eq!(call(line), (Caller::Libxl, None), "{line}");
        }
        assert!(!asks_only(&arguments("-machine q35 -name none")));
    }

    #[test]
    fn the_socket_that_xenopsd_waits_for_is_found() {
        let line = "7 -qmp unix:/var/run/xen/qmp-libxl-7,server,nowait \
            -qmp unix:/var/run/xen/qmp-event-7,server,nowait";
        let found = event_socket(&arguments(line), 7);
        assert_eq!(found, Some("/var/run/xen/qmp-event-7".into()));
        assert_eq!(event_socket(&arguments(line), 8), None);
    }
}
