//! The system calls that a server needs once it is set up, and no others.

use std::collections::BTreeMap;
use std::io;

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule,
};

use super::ioctl::{DM_OP, MAP_FRAMES, Notify, Request};
use super::rights;

/// What becomes of a server that makes a call it does not need.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Seccomp {
    /// The kernel ends it (`SIGSYS`) and writes a line to its log.
    #[default]
    Kill,
    /// The kernel writes a line to its log.
    Log,
    /// Nothing.
    None,
}

impl Seccomp {
    /// Holds the process, with all its threads, to the list: call it when all
    /// is opened, bound and mapped. It can not be taken back.
    ///
    /// # Errors
    ///
    /// The kernel's; one without seccomp says `EINVAL`.
    pub fn apply(self) -> io::Result<()> {
        match self {
            Seccomp::Kill => rights::hold_to(&filter(SeccompAction::KillProcess)?),
            Seccomp::Log => rights::hold_to(&filter(SeccompAction::Log)?),
            Seccomp::None => Ok(()),
        }
    }
}

/// Calls whose arguments do no harm. With descriptors they reach what is open.
const CALLS: &[libc::c_long] = &[
    // An access of the guest, and waiting for it.
    libc::SYS_read,
    libc::SYS_write,
    libc::SYS_sched_yield,
    libc::SYS_sched_getaffinity,
    libc::SYS_sched_setaffinity,
    libc::SYS_getcpu,
    // Threads, and their waiting for each other and for signals. A device
    // starts its thread with the first piece of work.
    libc::SYS_futex,
    libc::SYS_clone,
    libc::SYS_clone3,
    libc::SYS_set_robust_list,
    libc::SYS_rseq,
    libc::SYS_prctl,
    libc::SYS_sigaltstack,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_restart_syscall,
    libc::SYS_ppoll,
    libc::SYS_recvfrom,
    libc::SYS_sendto,
    libc::SYS_nanosleep,
    libc::SYS_clock_nanosleep,
    // Without a vDSO's clock, as under Xen.
    libc::SYS_clock_gettime,
    libc::SYS_gettimeofday,
    // Memory.
    libc::SYS_brk,
    libc::SYS_munmap,
    libc::SYS_mremap,
    libc::SYS_madvise,
    libc::SYS_getrandom,
    // Logging, and the end: files are removed, or what is in them.
    libc::SYS_writev,
    libc::SYS_close,
    libc::SYS_unlinkat,
    libc::SYS_getpid,
    libc::SYS_gettid,
    libc::SYS_tgkill,
    libc::SYS_tkill,
    libc::SYS_exit,
    libc::SYS_exit_group,
];

/// Those that newer architectures do without.
#[cfg(target_arch = "x86_64")]
const OLD_CALLS: &[libc::c_long] = &[libc::SYS_poll, libc::SYS_unlink];
#[cfg(not(target_arch = "x86_64"))]
const OLD_CALLS: &[libc::c_long] = &[];

/// The requests to drivers: of Xen's, those that the guest's doings need.
const REQUESTS: [u32; 3] = [DM_OP, MAP_FRAMES, Notify::NUMBER];

fn filter(otherwise: SeccompAction) -> io::Result<BpfProgram> {
    compile(otherwise).map_err(io::Error::other)
}

fn compile(otherwise: SeccompAction) -> Result<BpfProgram, seccompiler::BackendError> {
    let mut rules = BTreeMap::new();
    for call in CALLS.iter().chain(OLD_CALLS) {
        rules.insert(*call, Vec::new());
    }
    let requests: Result<_, _> = REQUESTS
        .map(|request| only(1, u32::MAX, request))
        .into_iter()
        .collect();
    rules.insert(libc::SYS_ioctl, requests?);
    // By which a debug build looks at what it closes.
    let look = libc::F_GETFD.unsigned_abs();
    rules.insert(libc::SYS_fcntl, vec![only(1, u32::MAX, look)?]);
    // No new code.
    let executable = libc::PROT_EXEC.unsigned_abs();
    for call in [libc::SYS_mmap, libc::SYS_mprotect] {
        rules.insert(call, vec![only(2, executable, 0)?]);
    }
    let here = std::env::consts::ARCH.try_into()?;
    SeccompFilter::new(rules, otherwise, SeccompAction::Allow, here)?.try_into()
}

/// A call whose argument has, in the bits of `mask`, this value.
fn only(argument: u8, mask: u32, value: u32) -> Result<SeccompRule, seccompiler::BackendError> {
    let masked = SeccompCmpOp::MaskedEq(mask.into());
    let condition = SeccompCondition::new(argument, SeccompCmpArgLen::Dword, masked, value.into())?;
    SeccompRule::new(vec![condition])
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;
    use std::process::{Command, ExitStatus};
    use std::sync::mpsc;
    use std::time::Duration;
    use std::{env, fs, thread};

    use super::*;

    const HELD: &str = "VGPU_STUB_TEST_HELD_TO_SECCOMP";

    /// Runs a test of this file alone, in a process of its own that is held to
    /// the list. In that process: the test's body.
    fn held(test: &str, body: impl FnOnce()) -> Option<ExitStatus> {
        if env::var_os(HELD).is_some() {
            Seccomp::Kill.apply().unwrap();
            body();
            return None;
        }
        let mut command = Command::new(env::current_exe().unwrap());
        command.args(["--exact", &format!("xen::seccomp::tests::{test}")]);
        command.env(HELD, "1");
        Some(command.output().unwrap().status)
    }

    #[test]
    fn what_a_server_does_is_allowed() {
        let status = held("what_a_server_does_is_allowed", || {
            let (sender, receiver) = mpsc::sync_channel(1);
            let thread = thread::Builder::new().name("worker".to_owned());
            let thread = thread.spawn(move || {
                thread::sleep(Duration::from_millis(1));
                thread::yield_now();
                let large = vec![1u8; 8 << 20];
                sender.send(large.len()).unwrap();
            });
            assert_eq!(receiver.recv().unwrap(), 8 << 20);
            thread.unwrap().join().unwrap();
            assert!(receiver.recv_timeout(Duration::from_millis(1)).is_err());
            let all = rustix::thread::sched_getaffinity(None).unwrap();
            rustix::thread::sched_setaffinity(None, &all).unwrap();
            let _ = fs::remove_file("/nonexistent/state");
            eprintln!("said");
        });
        assert!(status.is_none_or(|status| status.success()), "{status:?}");
    }

    /// A test whose body the kernel does not let come to its end.
    macro_rules! is_the_end {
        ($name:ident, $body:expr) => {
            #[test]
            fn $name() {
                let status = held(stringify!($name), || {
                    let _ = $body;
                });
                let signal = status.map(|status| status.signal());
                assert_eq!(signal, Some(Some(libc::SIGSYS)), "{status:?}");
            }
        };
    }

    is_the_end!(opening_a_file_is_the_end, fs::File::open("/dev/null"));
    is_the_end!(
        starting_a_program_is_the_end,
        Command::new("/bin/true").spawn()
    );
    is_the_end!(
        a_socket_is_the_end,
        std::net::TcpListener::bind("127.0.0.1:0")
    );
    is_the_end!(
        another_domain_s_port_is_the_end,
        super::super::ioctl::call(
            std::os::fd::AsFd::as_fd(&io::stdin()),
            &mut super::super::ioctl::BindUnbound { remote_domain: 0 }
        )
    );
    is_the_end!(
        code_is_the_end,
        vm_memory::MmapRegion::<()>::build(
            None,
            4096,
            libc::PROT_READ | libc::PROT_EXEC,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS
        )
    );

    #[test]
    fn no_list_is_no_limit() {
        Seccomp::None.apply().unwrap();
        fs::File::open("/dev/null").unwrap();
    }
}
