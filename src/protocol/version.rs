//! VERSION: what a peer speaks and what it can take.

use serde_json::{Map, Value, json};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::wire::{prefix, put};
use super::{Command, Malformed};

/// The version data that is read at all. QEMU's is 194 bytes; the bound keeps a
/// hostile peer's JSON tree small.
const MOST_DATA: usize = 16 << 10;

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct Wire {
    major: u16,
    minor: u16,
}

/// What a peer proposes, or what the server answers (vfio-user,
/// `VFIO_USER_VERSION`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Proposal {
    /// Changes when the message format does.
    pub major: u16,
    /// Changes when messages or capabilities are added.
    pub minor: u16,
    /// What the sender can take.
    pub capabilities: Capabilities,
}

/// What the sender of a [`Proposal`] can take. `None` means that it did not
/// say; the defaults are the constants.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Capabilities {
    /// The most fds it receives in one message; 0 is none at all.
    pub max_msg_fds: Option<u32>,
    /// The largest `count` of a data transfer; not 0.
    pub max_data_xfer_size: Option<u32>,
    /// The most DMA maps at one time; not 0.
    pub max_dma_maps: Option<u32>,
    /// The page sizes of DMA maps, or'ed together; not 0.
    pub pgsizes: Option<u64>,
    /// A second socket for the server's commands.
    pub twin_socket: Option<TwinSocket>,
    /// It knows `REGION_WRITE_MULTI`.
    pub write_multiple: Option<bool>,
    /// It maps read-only areas. Ours: `docs/mapped-registers.md`.
    pub read_only_areas: Option<bool>,
    /// It rings doorbells that keep their value. Ours:
    /// `docs/mapped-registers.md`.
    pub shadow_doorbells: Option<bool>,
    /// Migration. Not in the specification any more, but QEMU, libvfio-user and
    /// the `vfio_user` crate send it.
    pub migration: Option<Migration>,
    /// Accesses by shared memory (docs/shared-mmio.md, Negotiation). Not in the
    /// specification; only who knows it says it.
    pub shared_mmio: Option<SharedMmio>,
}

/// Parameters of the second socket (vfio-user, `VFIO_USER_VERSION`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TwinSocket {
    /// The sender knows it; `false` if it did not say.
    pub supported: bool,
    /// Which of the reply's fds it is.
    pub fd_index: Option<u32>,
}

/// Parameters of migration.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Migration {
    /// The page size of dirty bitmaps; not 0.
    pub pgsize: Option<u64>,
    /// The largest dirty bitmap.
    pub max_bitmap_size: Option<u64>,
}

/// Parameters of shared MMIO (docs/shared-mmio.md, Negotiation).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SharedMmio {
    /// The version that the client speaks at most, or that both will; not 0.
    pub version: u32,
    /// How many requesters the client wants at most, or has; not 0.
    pub slots: u32,
    /// How many posted writes the ring holds; only the server says it.
    pub ring: Option<u32>,
    /// Which of the reply's fds is its first; only the server says it.
    pub fd_index: Option<u32>,
}

impl Proposal {
    /// The request, or the reply.
    ///
    /// The version data may be absent, a lone NUL, or JSON with a NUL at its
    /// end and nowhere else. Unknown keys are ignored. Of a key that comes
    /// twice, the last counts.
    ///
    /// # Errors
    ///
    /// Fewer than 4 bytes; version data of more than 16 KiB, without NUL or
    /// with one inside, not UTF-8, not JSON, not an object; a known key of the
    /// wrong type or range.
    pub fn parse(body: &[u8]) -> Result<Proposal, Malformed> {
        let (wire, data) = prefix::<Wire>(Command::Version, body)?;
        Ok(Proposal {
            major: wire.major,
            minor: wire.minor,
            capabilities: Capabilities::parse(data)?,
        })
    }

    /// Appends the request, or the reply, with those capabilities that are
    /// `Some`.
    pub fn encode(&self, out: &mut Vec<u8>) {
        put(
            out,
            &Wire {
                major: self.major,
                minor: self.minor,
            },
        );
        let capabilities = self.capabilities.to_json();
        let data = json!({ "capabilities": capabilities }).to_string();
        out.extend_from_slice(data.as_bytes());
        out.push(0);
    }
}

impl Capabilities {
    /// What an absent `max_msg_fds` means.
    pub const DEFAULT_MAX_MSG_FDS: u32 = 1;
    /// What an absent `max_data_xfer_size` means.
    pub const DEFAULT_MAX_DATA_XFER_SIZE: u32 = 1 << 20;
    /// What an absent `max_dma_maps` means.
    pub const DEFAULT_MAX_DMA_MAPS: u32 = 65535;
    /// What absent `pgsizes` mean.
    pub const DEFAULT_PGSIZES: u64 = 4096;

    fn parse(data: &[u8]) -> Result<Capabilities, Malformed> {
        if data.len() > MOST_DATA {
            return Err(Malformed::VersionDataSize(data.len()));
        }
        let text = match data {
            [] | [0] => return Ok(Capabilities::default()),
            [text @ .., 0] if !text.contains(&0) => text,
            _ => return Err(Malformed::VersionNul),
        };
        // serde_json refuses what is not UTF-8, and more than 128 levels.
        let value = serde_json::from_slice(text).map_err(|error| Malformed::VersionJson {
            line: error.line(),
            column: error.column(),
        })?;
        let Value::Object(top) = value else {
            return Err(wrong("version data", "an object"));
        };
        match object(&top, "capabilities")? {
            Some(map) => Capabilities::from_json(map),
            None => Ok(Capabilities::default()),
        }
    }

    fn from_json(map: &Map<String, Value>) -> Result<Capabilities, Malformed> {
        let twin_socket = match object(map, "twin_socket")? {
            Some(twin) => Some(TwinSocket {
                supported: boolean(twin, "supported")?.unwrap_or(false),
                fd_index: number(twin, "fd_index", 0)?.map(saturate),
            }),
            None => None,
        };
        let migration = match object(map, "migration")? {
            Some(migration) => Some(Migration {
                pgsize: number(migration, "pgsize", 1)?,
                max_bitmap_size: number(migration, "max_bitmap_size", 0)?,
            }),
            None => None,
        };
        let shared_mmio = match object(map, "shared_mmio")? {
            Some(shared) => Some(SharedMmio {
                version: needed(shared, "version")?,
                slots: needed(shared, "slots")?,
                ring: number(shared, "ring", 1)?.map(saturate),
                fd_index: number(shared, "fd_index", 0)?.map(saturate),
            }),
            None => None,
        };
        Ok(Capabilities {
            max_msg_fds: number(map, "max_msg_fds", 0)?.map(saturate),
            max_data_xfer_size: number(map, "max_data_xfer_size", 1)?.map(saturate),
            max_dma_maps: number(map, "max_dma_maps", 1)?.map(saturate),
            pgsizes: number(map, "pgsizes", 1)?,
            twin_socket,
            write_multiple: boolean(map, "write_multiple")?,
            read_only_areas: boolean(map, "read_only_areas")?,
            shadow_doorbells: boolean(map, "shadow_doorbells")?,
            migration,
            shared_mmio,
        })
    }

    fn to_json(self) -> Value {
        let twin_socket = self.twin_socket.map(|twin| {
            let supported = Some(Value::from(twin.supported));
            let fd_index = twin.fd_index.map(Value::from);
            only_some([("supported", supported), ("fd_index", fd_index)])
        });
        let migration = self.migration.map(|migration| {
            let pgsize = migration.pgsize.map(Value::from);
            let bitmap = migration.max_bitmap_size.map(Value::from);
            only_some([("pgsize", pgsize), ("max_bitmap_size", bitmap)])
        });
        let shared_mmio = self.shared_mmio.map(|shared| {
            let ring = shared.ring.map(Value::from);
            let fd_index = shared.fd_index.map(Value::from);
            only_some([
                ("version", Some(shared.version.into())),
                ("slots", Some(shared.slots.into())),
                ("ring", ring),
                ("fd_index", fd_index),
            ])
        });
        only_some([
            ("max_msg_fds", self.max_msg_fds.map(Value::from)),
            (
                "max_data_xfer_size",
                self.max_data_xfer_size.map(Value::from),
            ),
            ("max_dma_maps", self.max_dma_maps.map(Value::from)),
            ("pgsizes", self.pgsizes.map(Value::from)),
            ("twin_socket", twin_socket),
            ("write_multiple", self.write_multiple.map(Value::from)),
            ("read_only_areas", self.read_only_areas.map(Value::from)),
            ("shadow_doorbells", self.shadow_doorbells.map(Value::from)),
            ("migration", migration),
            ("shared_mmio", shared_mmio),
        ])
    }
}

/// A limit above ours is as good as none: 2^32-1 stands for all of them.
fn saturate(value: u64) -> u32 {
    u32::try_from(value).unwrap_or(u32::MAX)
}

fn only_some<const N: usize>(entries: [(&str, Option<Value>); N]) -> Value {
    entries
        .into_iter()
        .filter_map(|(key, value)| Some((key.to_owned(), value?)))
        .collect()
}

fn wrong(key: &'static str, must: &'static str) -> Malformed {
    Malformed::Capability { key, must }
}

fn object<'a>(
    map: &'a Map<String, Value>,
    key: &'static str,
) -> Result<Option<&'a Map<String, Value>>, Malformed> {
    match map.get(key) {
        None => Ok(None),
        Some(Value::Object(object)) => Ok(Some(object)),
        Some(_) => Err(wrong(key, "an object")),
    }
}

fn boolean(map: &Map<String, Value>, key: &'static str) -> Result<Option<bool>, Malformed> {
    match map.get(key) {
        None => Ok(None),
        Some(Value::Bool(value)) => Ok(Some(*value)),
        Some(_) => Err(wrong(key, "true or false")),
    }
}

/// A whole number of at least `least`; not a float, not a string.
fn number(
    map: &Map<String, Value>,
    key: &'static str,
    least: u64,
) -> Result<Option<u64>, Malformed> {
    let Some(value) = map.get(key) else {
        return Ok(None);
    };
    match value.as_u64() {
        Some(number) if number >= least => Ok(Some(number)),
        _ if least == 0 => Err(wrong(key, "a whole number that is not negative")),
        _ => Err(wrong(key, "a whole number above 0")),
    }
}

/// A whole number above 0 without which its object says nothing.
fn needed(map: &Map<String, Value>, key: &'static str) -> Result<u32, Malformed> {
    match number(map, key, 1)? {
        Some(number) => Ok(saturate(number)),
        None => Err(wrong(key, "a whole number above 0")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(data: &[u8]) -> Result<Proposal, Malformed> {
        Proposal::parse(&[&bytes![0u16, 1u16][..], data].concat())
    }

    fn capabilities(json: &str) -> Result<Capabilities, Malformed> {
        let data = format!("{{\"capabilities\":{json}}}\0");
        parse(data.as_bytes()).map(|proposal| proposal.capabilities)
    }

    #[test]
    fn major_and_minor_come_first() {
        let proposal = Proposal::parse(&bytes![3u16, 9u16]).unwrap();
        assert_eq!((proposal.major, proposal.minor), (3, 9));
        for cut in 0..4 {
            let refusal = Proposal::parse(&bytes![3u16, 9u16][..cut]).unwrap_err();
            assert!(matches!(refusal, Malformed::Short { least: 4, .. }));
            assert_eq!(refusal.errno(), libc::EINVAL);
        }
    }

    #[test]
    fn nothing_said_is_nothing_known() {
        let data: [&[u8]; 5] = [
            b"",
            b"\0",
            b"{}\0",
            b"{\"x\":[1]}\0",
            b" {\"capabilities\":{}} \0",
        ];
        for data in data {
            assert_eq!(parse(data).unwrap().capabilities, Capabilities::default());
        }
    }

    #[test]
    fn what_qemu_says_is_understood() {
        let said = capabilities(
            r#"{"pgsizes":4096,"max_msg_fds":16,"max_dma_maps":65535,
                "max_data_xfer_size":1048576,"write_multiple":true,
                "migration":{"max_bitmap_size":268435456,"pgsize":4096}}"#,
        );
        let expected = Capabilities {
            max_msg_fds: Some(16),
            max_data_xfer_size: Some(1 << 20),
            max_dma_maps: Some(65535),
            pgsizes: Some(4096),
            twin_socket: None,
            write_multiple: Some(true),
            read_only_areas: None,
            shadow_doorbells: None,
            migration: Some(Migration {
                pgsize: Some(4096),
                max_bitmap_size: Some(256 << 20),
            }),
            shared_mmio: None,
        };
        assert_eq!(said, Ok(expected));
    }

    #[test]
    fn unknown_keys_are_ignored_and_of_two_the_last_counts() {
        let said = capabilities(r#"{"new":{},"max_msg_fds":1,"max_msg_fds":2}"#).unwrap();
        assert_eq!(said.max_msg_fds, Some(2));
        let twin = capabilities(r#"{"twin_socket":{"supported":true,"new":0}}"#).unwrap();
        let supported = TwinSocket {
            supported: true,
            fd_index: None,
        };
        assert_eq!(twin.twin_socket, Some(supported));
        let silent = capabilities(r#"{"twin_socket":{"fd_index":3}}"#).unwrap();
        assert_eq!(silent.twin_socket.unwrap().fd_index, Some(3));
        assert!(!silent.twin_socket.unwrap().supported);
    }

    #[test]
    fn shared_mmio_is_asked_for_and_answered() {
        let asked = capabilities(r#"{"shared_mmio":{"version":1,"slots":4}}"#).unwrap();
        let expected = SharedMmio {
            version: 1,
            slots: 4,
            ring: None,
            fd_index: None,
        };
        assert_eq!(asked.shared_mmio, Some(expected));
        let json = r#"{"shared_mmio":{"version":4294967296,"slots":2,"ring":256,"fd_index":0}}"#;
        let answered = SharedMmio {
            version: u32::MAX,
            slots: 2,
            ring: Some(256),
            fd_index: Some(0),
        };
        assert_eq!(capabilities(json).unwrap().shared_mmio, Some(answered));
    }

    #[test]
    fn a_limit_that_is_not_one_of_ours_becomes_the_largest() {
        let said = capabilities(r#"{"max_msg_fds":0,"max_data_xfer_size":4294967296}"#).unwrap();
        assert_eq!(said.max_msg_fds, Some(0));
        assert_eq!(said.max_data_xfer_size, Some(u32::MAX));
    }

    #[test]
    fn a_known_key_of_the_wrong_type_or_range_is_named() {
        let never: &[&str] = &[
            "-1", "1.5", "1.0", "1e3", "\"1\"", "true", "null", "[]", "{}",
        ];
        let positive = ["0", "18446744073709551616"];
        for key in [
            "max_data_xfer_size",
            "max_dma_maps",
            "pgsizes",
            "max_msg_fds",
        ] {
            let more: &[&str] = if key == "max_msg_fds" { &[] } else { &positive };
            for value in never.iter().chain(more) {
                let refusal = capabilities(&format!("{{\"{key}\":{value}}}")).unwrap_err();
                assert!(matches!(refusal, Malformed::Capability { key: k, .. } if k == key));
                assert_eq!(refusal.errno(), libc::EINVAL);
                assert!(refusal.to_string().contains(key));
            }
        }
    }

    #[test]
    fn objects_and_booleans_are_what_they_must_be() {
        let wrong = [
            (r#"{"twin_socket":true}"#, "twin_socket"),
            (r#"{"twin_socket":{"supported":1}}"#, "supported"),
            (r#"{"twin_socket":{"fd_index":-1}}"#, "fd_index"),
            (r#"{"write_multiple":1}"#, "write_multiple"),
            (r#"{"write_multiple":null}"#, "write_multiple"),
            (r#"{"migration":4096}"#, "migration"),
            (r#"{"migration":{"pgsize":0}}"#, "pgsize"),
            (r#"{"migration":{"max_bitmap_size":""}}"#, "max_bitmap_size"),
            (r#"{"shared_mmio":true}"#, "shared_mmio"),
            (r#"{"shared_mmio":{"slots":1}}"#, "version"),
            (r#"{"shared_mmio":{"version":0,"slots":1}}"#, "version"),
            (r#"{"shared_mmio":{"version":1}}"#, "slots"),
            (r#"{"shared_mmio":{"version":1,"slots":0}}"#, "slots"),
            (
                r#"{"shared_mmio":{"version":1,"slots":1,"ring":0}}"#,
                "ring",
            ),
            (
                r#"{"shared_mmio":{"version":1,"slots":1,"fd_index":-1}}"#,
                "fd_index",
            ),
            ("[]", "capabilities"),
            ("null", "capabilities"),
        ];
        for (json, name) in wrong {
            let refusal = capabilities(json).unwrap_err();
            assert!(matches!(refusal, Malformed::Capability { key, .. } if key == name));
        }
    }

    #[test]
    fn what_only_our_own_clients_say_is_understood() {
        let said = capabilities(r#"{"read_only_areas":true,"shadow_doorbells":false}"#).unwrap();
        assert_eq!(said.read_only_areas, Some(true));
        assert_eq!(said.shadow_doorbells, Some(false));
        for key in ["read_only_areas", "shadow_doorbells"] {
            let refusal = capabilities(&format!("{{\"{key}\":1}}")).unwrap_err();
            assert!(matches!(refusal, Malformed::Capability { key: k, .. } if k == key));
        }
        let mut out = Vec::new();
        let capabilities = said;
        let proposal = Proposal {
            capabilities,
            ..Proposal::default()
        };
        proposal.encode(&mut out);
        assert_eq!(Proposal::parse(&out), Ok(proposal));
    }

    #[test]
    fn version_data_ends_in_its_only_nul() {
        for data in [&b"{}"[..], b"{}\0\0", b"{\0}\0", b"\0\0", b"x"] {
            assert_eq!(parse(data).unwrap_err(), Malformed::VersionNul);
        }
    }

    #[test]
    fn version_data_that_is_no_json_object_is_refused() {
        for data in [
            &b"{\0"[..],
            b"{} {}\0",
            b"\xff\0",
            b"{\"\xff\":1}\0",
            b" \0",
        ] {
            let refusal = parse(data).unwrap_err();
            assert!(matches!(refusal, Malformed::VersionJson { .. }));
            assert_eq!(refusal.errno(), libc::EINVAL);
        }
        for data in [&b"[]\0"[..], b"null\0", b"1\0", b"\"{}\"\0"] {
            let refusal = parse(data).unwrap_err();
            assert!(matches!(refusal, Malformed::Capability { .. }));
        }
    }

    #[test]
    fn deep_or_long_version_data_is_refused() {
        let deep = [&[b'['; 8000][..], &[0]].concat();
        assert!(matches!(parse(&deep), Err(Malformed::VersionJson { .. })));
        let long = [&[b' '; MOST_DATA][..], &[0]].concat();
        assert_eq!(parse(&long).unwrap_err().errno(), libc::E2BIG);
    }

    #[test]
    fn only_what_is_known_is_said() {
        let mut out = Vec::new();
        Proposal::default().encode(&mut out);
        assert_eq!(out, b"\0\0\0\0{\"capabilities\":{}}\0");
        let proposal = Proposal {
            major: 0,
            minor: 1,
            capabilities: Capabilities {
                max_msg_fds: Some(8),
                twin_socket: Some(TwinSocket {
                    supported: true,
                    fd_index: Some(0),
                }),
                ..Capabilities::default()
            },
        };
        out.clear();
        proposal.encode(&mut out);
        let json =
            br#"{"capabilities":{"max_msg_fds":8,"twin_socket":{"fd_index":0,"supported":true}}}"#;
        assert_eq!(out[4..out.len() - 1], json[..]);
        assert_eq!(Proposal::parse(&out), Ok(proposal));
    }
}
