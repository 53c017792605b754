//! What is in xenstore, as `xenstore-ls -f` lists it: of the machine, or of
//! the list that a status report (`xen-bugtool`) has.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

use super::ask::Ask;
use super::view::View;

/// Where the program is: on XCP-ng, and elsewhere.
const PROGRAMS: [&str; 3] = [
    "/usr/bin/xenstore-ls",
    "/usr/sbin/xenstore-ls",
    "/usr/lib/xen-common/bin/xenstore-ls",
];
/// What a copied tree may have instead.
const LISTS: [&str; 3] = [
    "/xenstore-ls.out",
    "/xenstore-ls--f.out",
    "/xenstore-ls.txt",
];
const LIMIT: Duration = Duration::from_secs(10);
/// What is read of a list.
const MOST: u64 = 16 << 20;

/// All keys and their values.
#[derive(Clone, Debug, Default)]
pub(super) struct Store {
    keys: BTreeMap<String, String>,
}

impl Store {
    /// Of the machine if it can be asked, else of a list in the tree.
    pub(super) fn read(view: &View, ask: &dyn Ask) -> Option<Store> {
        for program in PROGRAMS.iter().map(Path::new) {
            if let Some(answer) = ask.ask(program, &["-f"], LIMIT)
                && answer.succeeded
            {
                return Some(Store::parse(&answer.said));
            }
        }
        let list = LISTS.iter().find_map(|list| view.read(list, MOST).ok())?;
        Some(Store::parse(&String::from_utf8_lossy(&list)))
    }

    /// Lines of `/path = "value"`; others are not its.
    pub(super) fn parse(text: &str) -> Store {
        let keys = text.lines().filter_map(|line| {
            let (path, value) = line.split_once(" = \"")?;
            let value = &value[..value.rfind('"')?];
            path.starts_with('/')
                .then(|| (path.to_owned(), unescaped(value)))
        });
        Store {
            keys: keys.collect(),
        }
    }

    /// A key's value.
    pub(super) fn get(&self, path: &str) -> Option<&str> {
        self.keys.get(path).map(String::as_str)
    }

    /// Everything below a path, with what follows the path in its name.
    pub(super) fn below<'a>(&'a self, path: &'a str) -> impl Iterator<Item = (&'a str, &'a str)> {
        self.keys
            .range(path.to_owned()..)
            .map_while(move |(name, value)| Some((name.strip_prefix(path)?, value.as_str())))
            .filter_map(|(rest, value)| Some((rest.strip_prefix('/')?, value)))
    }

    /// The domains that there are, dom0 among them.
    pub(super) fn domains(&self) -> BTreeSet<u32> {
        self.below("/local/domain")
            .filter_map(|(rest, _)| rest.split('/').next()?.parse().ok())
            .collect()
    }

    /// Whose domain it is: the VM's UUID.
    pub(super) fn vm_of(&self, domain: u32) -> Option<String> {
        let vm = self.get(&format!("/local/domain/{domain}/vm"))?;
        // A restarted VM's path has a generation behind a dash too many.
        let uuid: String = vm.strip_prefix("/vm/")?.chars().take(36).collect();
        Some(uuid)
    }

    /// The VM's present domain: the youngest that says it is its.
    pub(super) fn domain_of(&self, vm: &str) -> Option<u32> {
        self.domains()
            .into_iter()
            .rfind(|domain| self.vm_of(*domain).as_deref() == Some(vm))
    }
}

/// Without the backslashes that the program puts before what is not printed.
fn unescaped(value: &str) -> String {
    let mut bytes = Vec::with_capacity(value.len());
    let mut rest = value.as_bytes().iter().copied().peekable();
    while let Some(byte) = rest.next() {
        if byte != b'\\' {
            bytes.push(byte);
            continue;
        }
        match rest.next() {
            Some(b'n') => bytes.push(b'\n'),
            Some(b'r') => bytes.push(b'\r'),
            Some(b't') => bytes.push(b'\t'),
            Some(digit @ b'0'..=b'7') => {
                let mut code = u32::from(digit - b'0');
                while let Some(digit @ b'0'..=b'7') = rest.peek().copied()
                    && code < 32
                {
                    code = code * 8 + u32::from(digit - b'0');
                    rest.next();
                }
                bytes.push(u8::try_from(code).unwrap_or(b'?'));
            }
            Some(other) => bytes.push(other),
            None => bytes.push(b'\\'),
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIST: &str = r#"/local/domain/0/vm = "/vm/00000000-0000-0000-0000-000000000000"
/local/domain/3/vm = "/vm/11111111-2222-3333-4444-555555555555"
/local/domain/7/vm = "/vm/11111111-2222-3333-4444-555555555555"
/local/domain/7/platform/vgpu-stub = "stub,vectors=2"
/local/domain/7/platform/odd = "a \"b\"\n\033x"
/local/domain/70/name = "other"
not a line
"#;

    #[test]
    fn a_vm_is_its_youngest_domain() {
        let store = Store::parse(LIST);
        let vm = "11111111-2222-3333-4444-555555555555";
        assert_eq!(store.domain_of(vm), Some(7));
        assert_eq!(store.vm_of(7).as_deref(), Some(vm));
        assert_eq!(store.domain_of("other"), None);
        assert_eq!(Vec::from_iter(store.domains()), [0, 3, 7, 70]);
    }

    #[test]
    fn values_are_as_they_were_written() {
        let store = Store::parse(LIST);
        assert_eq!(
            store.get("/local/domain/7/platform/odd"),
            Some("a \"b\"\n\x1bx")
        );
        let below: Vec<_> = store.below("/local/domain/7/platform").collect();
        assert_eq!(below.len(), 2);
        assert_eq!(store.below("/local/domain/7").count(), 3);
    }
}
