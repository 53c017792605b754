//! What xapi keeps of VMs and drives: `/var/lib/xcp/state.db`, an XML file
//! whose rows are elements with attributes. The pool's master has it.

use std::collections::BTreeMap;

use super::view::View;

const FILE: &str = "/var/lib/xcp/state.db";
/// A large pool's has some 50 MB.
const MOST: u64 = 256 << 20;
/// An attribute longer than this is no name, number or map of keys that
/// anything here looks for.
const MOST_VALUE: usize = 64 << 10;

/// A VM's row, or what is of interest of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Vm {
    pub uuid: String,
    pub platform: BTreeMap<String, String>,
    pub other_config: BTreeMap<String, String>,
    pub xenstore_data: BTreeMap<String, String>,
    /// Its CD drives' `userdevice`s, each with its own UUID.
    pub drives: Vec<(String, String)>,
}

/// The VMs.
#[derive(Clone, Debug, Default)]
pub(super) struct Database {
    vms: Vec<Vm>,
}

impl Database {
    pub(super) fn read(view: &View) -> Option<Database> {
        let bytes = view.read(FILE, MOST).ok()?;
        Some(Database::parse(&String::from_utf8_lossy(&bytes)))
    }

    /// All of them.
    pub(super) fn vms(&self) -> &[Vm] {
        &self.vms
    }

    fn parse(text: &str) -> Database {
        // By the reference that the drives name them with.
        let mut vms: BTreeMap<String, Vm> = BTreeMap::new();
        let mut drives = Vec::new();
        let mut table = String::new();
        for element in text.split('<') {
            if let Some(rest) = element.strip_prefix("table ") {
                table = attributes(rest).remove("name").unwrap_or_default();
            }
            let Some(rest) = element.strip_prefix("row ") else {
                continue;
            };
            match table.as_str() {
                "VM" => {
                    let mut row = attributes(rest);
                    let reference = row.remove("ref").unwrap_or_default();
                    let vm = Vm::new(&row);
                    if !vm.uuid.is_empty() {
                        vms.insert(reference, vm);
                    }
                }
                "VBD" => drives.push(attributes(rest)),
                _ => {}
            }
        }
        for mut drive in drives {
            let reference = drive.remove("VM").unwrap_or_default();
            if let Some(vm) = vms.get_mut(&reference)
                && drive.get("type").is_some_and(|kind| kind == "CD")
            {
                let take = |name| drive.get(name).cloned().unwrap_or_default();
                vm.drives.push((take("uuid"), take("userdevice")));
            }
        }
        Database {
            vms: vms.into_values().collect(),
        }
    }
}

impl Vm {
    fn new(row: &BTreeMap<String, String>) -> Vm {
        let map = |name| row.get(name).map(|text| pairs(text)).unwrap_or_default();
        Vm {
            uuid: row.get("uuid").cloned().unwrap_or_default(),
            platform: map("platform"),
            other_config: map("other_config"),
            xenstore_data: map("xenstore_data"),
            drives: Vec::new(),
        }
    }
}

/// `name="value"` until the element ends. xapi writes a blank as `%.`.
fn attributes(text: &str) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    let mut rest = text;
    while let Some((name, after)) = rest.split_once('=') {
        let Some(after) = after.strip_prefix('"') else {
            break;
        };
        let Some((value, after)) = after.split_once('"') else {
            break;
        };
        let name = name.trim();
        if name.contains('>') {
            break;
        }
        if value.len() <= MOST_VALUE {
            found.insert(name.to_owned(), spaces(&entities(value)));
        }
        rest = after;
    }
    found
}

fn entities(text: &str) -> String {
    text.replace("&lt;", "<")
        .replace("&gt;", ">")
        .replace("&quot;", "\"")
        .replace("&apos;", "'")
        .replace("&#39;", "'")
        .replace("&amp;", "&")
}

fn spaces(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut characters = text.chars().peekable();
    while let Some(character) = characters.next() {
        let meant = match (character, characters.peek()) {
            ('%', Some('.' | '_')) => ' ',
            ('%', Some('t')) => '\t',
            ('%', Some('n')) => '\n',
            ('%', Some('r')) => '\r',
            ('%', Some('%')) => '%',
            _ => {
                plain.push(character);
                continue;
            }
        };
        characters.next();
        plain.push(meant);
    }
    plain
}

/// `(('key' 'value') ('key' 'value'))`, with `\'` for a quote.
fn pairs(text: &str) -> BTreeMap<String, String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut characters = text.chars();
    while let Some(character) = characters.next() {
        match (&mut word, character) {
            (Some(said), '\\') => said.extend(characters.next()),
            (Some(_), '\'') => words.extend(word.take()),
            (Some(said), other) => said.push(other),
            (None, '\'') => word = Some(String::new()),
            (None, _) => {}
        }
    }
    let pairs = words.chunks_exact(2);
    pairs
        .map(|pair| (pair[0].clone(), pair[1].clone()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_is_read_as_xapi_writes_it() {
        let text = "<?xml version=\"1.0\"?><database><manifest>\
            <pair key=\"schema_major_vsn\" value=\"5\"/></manifest>\
            <table name=\"VBD\"><row ref=\"OpaqueRef:d\" VM=\"OpaqueRef:v\" type=\"CD\" \
            userdevice=\"xvdd\" uuid=\"drive\"/></table>\
            <table name=\"VM\"><row ref=\"OpaqueRef:v\" __mtime=\"3\" uuid=\"machine\" \
            name__description=\"100%%%.&lt;sure&gt;\" \
            platform=\"((&apos;vgpu-stub&apos;%.&apos;true&apos;)%.('k'%.'it\\'s'))\"/></table>\
            </database>";
        let database = Database::parse(text);
        let [vm] = database.vms() else {
            panic!("{database:?}")
        };
        assert_eq!(vm.uuid, "machine");
        assert_eq!(vm.platform["vgpu-stub"], "true");
        assert_eq!(vm.platform["k"], "it's");
        assert_eq!(vm.drives, [("drive".to_owned(), "xvdd".to_owned())]);
        assert!(vm.other_config.is_empty());
    }

    #[test]
    fn what_is_not_finished_is_not_taken() {
        for text in [
            "<row",
            "<table name=\"VM\"><row uuid=\"x",
            "<table name=",
            "<row a=b>",
        ] {
            assert!(Database::parse(text).vms().is_empty(), "{text}");
        }
    }
}
