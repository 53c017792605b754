//! What a trapped access costs, hop by hop, each hop beside its floor.
//!
//! A *rung* of the ladder is a [`Section`] of the [`Report`]; its *rows* are
//! measured side by side. The figures of a shared machine drift by tens of
//! percent, so rows are taken interleaved ([`Bench::measure`]) and what is claimed
//! is a row's ratio to its floor in the same run, with its confidence
//! interval.
//!
//! | file | what happens there |
//! |---|---|
//! | `clock`, `cpu_time` | what time is read from, and what reading it costs |
//! | `ladder` | which rungs, in which order |
//! | `plan`, `scheduling` | how long, how often, on which CPUs, at which priority |
//! | `subject`, `waiting` | what is measured: a [`Subject`] takes samples of one access |
//! | `measure` | warm-up, doubling to the goal time, A B A B ... |
//! | `runs` | everything several times, from the beginning |
//! | `tally` | samples of a row become histograms and medians |
//! | `report` | the result as data, with its [`statistics`](Spread) |
//! | `machine` | what it was measured on |
//! | `parse` | a report from a file, which is not trusted |
//! | `compare` | two reports: faster, slower, cannot tell |
//! | [`output`] | the report for people and for other programs |
//! | `peer` | a server in a process of its own, for the rungs that need one |
//! | `dispatch` | rung 1: the endpoint in process |
//! | [`socket`](socket()) | rungs 2 and 3: servers on a socket |
//! | [`shared`](shared()) | rung 2, too: memory that client and server share |
//! | [`kvm`](kvm()) | rung 4: a VM of our own |
//! | [`qemu`](qemu()) | rung 5: QEMU, timed by a guest of its own |
//! | [`guest`](guest()) | rung 6: a register, from inside any Linux |
//! | `bare` | the guest that rungs 5 and 7 run, and servers for it |
//! | [`xen`](XenHost) | rung 7: a guest of Xen's, timed by the same |

mod bare;
mod clock;
mod compare;
mod cpu_time;
mod dispatch;
mod guest;
#[cfg_attr(not(target_arch = "x86_64"), path = "no_kvm.rs")]
mod kvm;
mod ladder;
mod machine;
mod measure;
pub mod output;
mod parse;
mod peer;
mod plan;
mod qemu;
mod report;
mod runs;
mod scheduling;
mod shared;
mod socket;
mod statistics;
mod subject;
mod tally;
mod waiting;
#[cfg_attr(not(feature = "xen"), path = "no_xen.rs")]
mod xen;

pub use clock::Clock;
pub use compare::{Change, Compared, Comparison, Of, Verdict};
pub use dispatch::dispatch;
pub use guest::{Address, Place, Target, Wanted, guest};
pub use kvm::kvm;
pub use ladder::{Ladder, USUAL_RUNGS};
pub use machine::Machine;
pub use measure::{Bench, Candidate, Progress, Quiet};
pub use peer::{Peer, PeerKind, PeerOptions, Stamps, serve_peer};
pub use plan::{InPlace, Interrupt, Method, Pinned, Pinning, Plan};
pub use qemu::qemu;
pub use report::{Breakdown, FORMAT, Gap, Part, Report, Row, Run, Section, Summary, Whose};
pub use shared::shared;
pub use socket::{OtherServer, socket};
pub use statistics::{Spread, median, t_quantile, welch};
pub use subject::{Subject, Trouble, timed};
pub use tally::Tally;
pub use xen::XenHost;
