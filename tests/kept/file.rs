//! The state file: a server that is killed between any two of its stores, and
//! files that are no state.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use vgpu_stub::devices::{Kind, Options};
use vgpu_stub::endpoint::{CONFIG_REGION, Endpoint};
use vgpu_stub::xen::kept::{Found, Kept, Predecessor, Server, Subject, Unopened};

const DOMAIN: u16 = 7;
const NAME: &str = "1af4:1111 at 0000:00:0c.0";

type Page = [AtomicU64; 512];

/// An ioreq page with the event channels of some vCPUs.
fn page(vcpus: usize) -> Page {
    let page: Page = std::array::from_fn(|_| AtomicU64::new(0));
    for vcpu in 0..vcpus {
        page[vcpu * 4 + 3].store(20 + vcpu as u64, Ordering::SeqCst);
    }
    page
}

fn endpoint() -> Endpoint {
    let builder = Kind::find("stub").unwrap().builder(Options::default());
    Endpoint::new(builder.unwrap()).unwrap()
}

fn begin(path: &Path, page: &Page, endpoint: &mut Endpoint) -> Kept {
    let Found::Nothing(fresh) = Unopened::at(path).unwrap().look(DOMAIN).unwrap() else {
        panic!("something was there");
    };
    let server = Server {
        domain: DOMAIN,
        id: 1,
        vcpus: 2,
    };
    let name = NAME;
    fresh
        .begin(server, page, &mut [Subject { name, endpoint }])
        .unwrap()
}

fn predecessor(path: &Path) -> Result<Predecessor, String> {
    let found = Unopened::at(path).and_then(|file| file.look(DOMAIN));
    match found.map_err(|error| error.to_string())? {
        Found::Predecessor(predecessor) => Ok(predecessor),
        Found::Nothing(_) => Err("nothing".to_owned()),
    }
}

fn adopt(path: &Path) -> Result<(Kept, Endpoint), String> {
    let mut endpoint = endpoint();
    let subject = Subject {
        name: NAME,
        endpoint: &mut endpoint,
    };
    let kept = predecessor(path)?.adopt(&mut [subject]);
    let kept = kept.map_err(|error| error.to_string())?;
    Ok((kept, endpoint))
}

/// All that can be read but for the time, the count of reads first.
fn all(endpoint: &mut Endpoint) -> Vec<u64> {
    let mut all = vec![endpoint.load(0, 0x80, 8).unwrap()];
    for offset in (0..0x400).step_by(8).filter(|offset| *offset != 0xa0) {
        if offset != 0x80 {
            all.push(endpoint.load(0, offset, 8).unwrap());
        }
    }
    for offset in (0..256).step_by(8) {
        all.push(endpoint.load(CONFIG_REGION, offset, 8).unwrap());
        all.push(endpoint.load(0, 0x800 + offset, 8).unwrap());
    }
    all
}

struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }
}

fn words(path: &Path) -> Vec<u64> {
    let bytes = fs::read(path).unwrap();
    let words = bytes.chunks_exact(8);
    let words = words.map(|word| u64::from_ne_bytes(word.try_into().unwrap()));
    words.collect()
}

fn write(path: &Path, words: &[u64]) {
    let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
    // Another file: the one before may be locked.
    let _ = fs::remove_file(path);
    fs::write(path, bytes).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
}

fn places() -> (tempfile::TempDir, PathBuf, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let (first, second) = (
        directory.path().join("state"),
        directory.path().join("copy"),
    );
    (directory, first, second)
}

#[test]
fn a_server_killed_between_any_two_stores_leaves_the_access_done_or_not_begun() {
    let seed = 20_261_121;
    println!("seed {seed}");
    let mut random = Random(seed);
    let (_directory, path, copy) = places();
    let page = page(2);
    let mut first = endpoint();
    let mut kept = begin(&path, &page, &mut first);
    for step in 0..40 {
        let before = words(&path);
        write(&copy, &before);
        let (_, mut old) = adopt(&copy).unwrap();
        let old = all(&mut old);

        let vcpu = random.below(2) as usize;
        let value = random.next();
        match random.below(4) {
            0 => assert!(first.load(0, random.below(0x30) * 4, 4).is_ok()),
            1 => first
                .store(0, 0x800 + random.below(16) * 8, 8, value)
                .unwrap(),
            2 => first
                .store(CONFIG_REGION, 4 + random.below(8) * 4, 4, value)
                .unwrap(),
            // Storage, and what counts.
            _ => {
                let offset = [0xc, 0x10, 0x1c, 0x20, 0x24, 0x30, 0x48][random.below(7) as usize];
                first.store(0, offset, 4, value & 0xf).unwrap();
            }
        }
        kept.commit(0, vcpu, &first);
        let after = words(&path);
        kept.answered(0);
        let settled = words(&path);
        let differs: Vec<usize> = (0..after.len())
            .filter(|at| after[*at] != before[*at])
            .collect();
        let commit: Vec<usize> = (0..after.len())
            .filter(|at| after[*at] != settled[*at])
            .collect();
        let [commit] = commit[..] else {
            panic!("step {step}: {commit:?}");
        };
        // The commit is the last store.
        let mut image = before.clone();
        for (count, at) in differs.iter().filter(|at| **at != commit).enumerate() {
            image[*at] = after[*at];
            if count % 7 == step % 7 || count + 2 >= differs.len() {
                write(&copy, &image);
                let (kept, mut endpoint) = adopt(&copy).unwrap();
                assert!(!kept.was_done(vcpu));
                assert_eq!(all(&mut endpoint), old, "step {step}, {count} stores");
            }
        }
        image[commit] = after[commit];
        assert_eq!(image, after);
        write(&copy, &image);
        let (mut adopted, mut endpoint) = adopt(&copy).unwrap();
        assert!(adopted.was_done(vcpu) && !adopted.was_done(1 - vcpu));
        adopted.settle();
        assert!(!adopted.was_done(vcpu));
        // What it goes on with is kept as well.
        adopted.commit(0, vcpu, &endpoint);
        adopted.answered(0);
        let new = all(&mut endpoint);
        // Both hold the lock.
        drop((adopted, endpoint));
        let (_, mut third) = adopt(&copy).unwrap();
        assert_eq!(all(&mut third), new, "step {step}");
        write(&copy, &settled);
        let (_, mut endpoint) = adopt(&copy).unwrap();
        assert_eq!(all(&mut endpoint), new, "step {step}");
    }
}

#[test]
fn another_server_of_the_same_number_is_not_taken_for_the_predecessor() {
    let (_directory, path, _) = places();
    let ours = page(2);
    drop(begin(&path, &ours, &mut endpoint()));
    let predecessor = predecessor(&path).unwrap();
    assert_eq!(
        (predecessor.server().id, predecessor.server().vcpus),
        (1, 2)
    );
    assert!(predecessor.is_behind(&ours));
    // Its event channels happen to be the same.
    assert!(!predecessor.is_behind(&page(2)));
    ours[3].store(99, Ordering::SeqCst);
    assert!(!predecessor.is_behind(&ours));
}

#[test]
fn ranges_that_xen_may_have_are_known_to_the_successor() {
    let (_directory, path, _) = places();
    let kept = begin(&path, &page(2), &mut endpoint());
    let ranges = kept.ranges();
    ranges.note(0x1000, 0x1fff);
    ranges.note(0x8000, 0x8fff);
    ranges.note(0x8000, 0x8fff);
    ranges.forget(0x1000, 0x1fff);
    ranges.note(0x3000, 0x3fff);
    drop((kept, ranges));
    let (kept, _) = adopt(&path).unwrap();
    assert_eq!(kept.ranges().all(), [0x3000..=0x3fff, 0x8000..=0x8fff]);
}

#[test]
fn a_file_that_is_in_use_foreign_or_no_file_is_refused_in_one_line() {
    let (directory, path, copy) = places();
    let kept = begin(&path, &page(2), &mut endpoint());
    let refused = |path: &Path| {
        let error = predecessor(path).unwrap_err();
        assert!(!error.contains('\n'), "{error}");
        error
    };
    assert!(refused(&path).ends_with("another server has it; end that one, or name another file"));
    let state = words(&path);
    drop(kept);
    let other = Unopened::at(&path).unwrap().look(8).unwrap_err();
    let other = other.to_string();
    assert!(other.contains("it is of domain 7, not of 8"), "{other}");

    let mut endpoint = endpoint();
    let subject = Subject {
        name: "1af4:1112 at 0000:00:0c.0",
        endpoint: &mut endpoint,
    };
    let other = predecessor(&path).unwrap().adopt(&mut [subject]);
    let other = other.unwrap_err().to_string();
    assert!(other.contains(NAME), "{other}");

    assert!(refused(directory.path()).contains("cannot open it"));
    fs::set_permissions(&path, fs::Permissions::from_mode(0o622)).unwrap();
    assert!(refused(&path).contains("others than its owner may write"));
    std::os::unix::fs::symlink(&path, &copy).unwrap();
    assert!(refused(&copy).contains("cannot open it"));
    fs::remove_file(&copy).unwrap();

    for nothing in [0, 8, 1000, 100_000].map(|length| vec![0; length]) {
        fs::write(&copy, nothing).unwrap();
        fs::set_permissions(&copy, fs::Permissions::from_mode(0o600)).unwrap();
        assert_eq!(refused(&copy), "nothing");
    }
    for length in [1, 100, 511, 512, 600, state.len() - 1] {
        write(&copy, &state[..length]);
        let error = adopt(&copy).err().unwrap();
        assert!(error.contains("remove it"), "{length}: {error}");
    }
    let mut long = File::options().append(true).open(&copy).unwrap();
    long.write_all(&[0; 64]).unwrap();
    assert!(adopt(&copy).err().unwrap().contains("its length"));
}

#[test]
fn a_file_with_any_wrong_words_is_refused_or_used_and_nothing_panics() {
    let seed = 77;
    println!("seed {seed}");
    let mut random = Random(seed);
    let (_directory, path, copy) = places();
    let mut first = endpoint();
    let mut kept = begin(&path, &page(2), &mut first);
    first.store(0, 0xc, 4, 0x1234).unwrap();
    kept.commit(0, 0, &first);
    kept.answered(0);
    drop(kept);
    let state = words(&path);
    let mut refused = 0;
    for _ in 0..1500 {
        let mut image = state.clone();
        // The header, and all that is behind it.
        let end = [600, image.len() as u64][random.below(2) as usize];
        for _ in 0..=random.below(3) {
            let at = random.below(end) as usize;
            image[at] = match random.below(3) {
                0 => random.next(),
                1 => image[at] ^ 1 << random.below(64),
                _ => random.below(4),
            };
        }
        write(&copy, &image);
        match adopt(&copy) {
            Ok((_, mut endpoint)) => {
                // What counts was not hit.
                assert_eq!(endpoint.load(0, 0xc, 4).unwrap() & 0xffff_ffff, 0x1234);
                endpoint.resume();
                endpoint.reset();
            }
            Err(error) => {
                refused += 1;
                assert!(!error.contains('\n'), "{error}");
            }
        }
    }
    assert!(refused > 300, "{refused}");
}

#[test]
fn a_state_that_was_removed_leaves_nothing() {
    let (_directory, path, _) = places();
    let kept = begin(&path, &page(2), &mut endpoint());
    let held = File::open(&path).unwrap();
    kept.remove();
    assert!(!path.exists());
    let mut magic = [1; 8];
    std::os::unix::fs::FileExt::read_exact_at(&held, &mut magic, 0).unwrap();
    assert_eq!(magic, [0; 8]);
}
