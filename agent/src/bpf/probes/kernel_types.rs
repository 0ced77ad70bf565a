//! Where the running kernel has some fields of its structures, by its own description of its types (BTF,
//! `Documentation/bpf/btf.rst`).
//!
//! aya's BTF reader does not expose member offsets, and takes 20 MB; a few members of a few structures are found
//! in one pass over the bytes.

/// The kernel's description.
pub const PATH: &str = "/sys/kernel/btf/vmlinux";

/// Offsets, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KernelTypes {
    /// Of the byte that has `sk_kern_sock` in `struct sock`, and the bit's mask.
    pub kernel_socket: (u32, u8),
    /// Of `skc_cookie` in `struct sock_common`, with which a socket begins.
    pub cookie: u32,
    /// Of `skc_state` in `struct sock_common`.
    pub state: u32,
    /// Of `flags` in `struct task_struct`.
    pub task_flags: u32,
}

impl KernelTypes {
    /// `None` if a field is not there, or not where one expects it.
    pub fn find(btf: &[u8]) -> Option<Self> {
        let btf = Btf::open(btf)?;
        let [kernel_socket, cookie, state, flags] = btf.members([
            ("sock", "sk_kern_sock"),
            ("sock_common", "skc_cookie"),
            ("sock_common", "skc_state"),
            ("task_struct", "flags"),
        ])?;
        let (byte, bit) = (kernel_socket / 8, kernel_socket % 8);
        Some(Self {
            kernel_socket: (byte, 1 << bit),
            cookie: whole(cookie)?,
            state: whole(state)?,
            task_flags: whole(flags)?,
        })
    }
}

fn whole(bits: u32) -> Option<u32> {
    bits.is_multiple_of(8).then_some(bits / 8)
}

/// A member of one of the kernel's structures, by the names of both. The structure's nameless members count as
/// its own.
pub type Member = (&'static str, &'static str);

/// Where these members are in their structures, in bytes; `None` if one is not there.
pub fn offsets<const N: usize>(btf: &[u8], wanted: [Member; N]) -> Option<[u32; N]> {
    let mut offsets = Btf::open(btf)?.members(wanted)?;
    for offset in &mut offsets {
        *offset = whole(*offset)?;
    }
    Some(offsets)
}

/// The two sections of a description.
struct Btf<'a> {
    types: &'a [u8],
    strings: &'a [u8],
    /// Where each type is in its section, by its number.
    positions: Vec<u32>,
}

/// Kinds of types, by their numbers.
const STRUCT: u32 = 4;
const UNION: u32 = 5;

impl<'a> Btf<'a> {
    fn open(bytes: &'a [u8]) -> Option<Self> {
        const MAGIC: u16 = 0xeb9f;
        if u16::from_ne_bytes(bytes.first_chunk().copied()?) != MAGIC {
            return None;
        }
        let header = word(bytes, 4)? as usize;
        let section = |at: usize| {
            let start = header.checked_add(word(bytes, at)? as usize)?;
            bytes.get(start..start.checked_add(word(bytes, at + 4)? as usize)?)
        };
        let (types, strings) = (section(8)?, section(16)?);
        // Number 0 is `void`.
        let mut positions = vec![u32::MAX];
        let mut at = 0;
        while at < types.len() {
            positions.push(u32::try_from(at).ok()?);
            let info = word(types, at + 4)?;
            at += 12 + size_of_rest(info >> 24 & 0x1f, (info & 0xffff) as usize)?;
        }
        Some(Self { types, strings, positions })
    }

    /// Where members are in their structures, in bits.
    fn members<const N: usize>(&self, wanted: [(&str, &str); N]) -> Option<[u32; N]> {
        let mut found = [None; N];
        for &at in self.positions.get(1..)? {
            let at = at as usize;
            let (name, info) = (word(self.types, at)?, word(self.types, at + 4)?);
            if info >> 24 & 0x1f != STRUCT {
                continue;
            }
            for (place, (structure, member)) in found.iter_mut().zip(wanted) {
                if self.is_named(name, structure) {
                    *place = place.or_else(|| self.member(at, member, 0));
                }
            }
        }
        let mut offsets = [0; N];
        for (offset, found) in offsets.iter_mut().zip(found) {
            *offset = found?;
        }
        Some(offsets)
    }

    /// A member of the structure or union that is there, or of one of those without a name in it.
    fn member(&self, at: usize, name: &str, depth: u32) -> Option<u32> {
        const DEEPEST: u32 = 8;
        let info = word(self.types, at + 4)?;
        (0..(info & 0xffff) as usize).find_map(|number| {
            let at = at + 12 + number * 12;
            let (own_name, kind) = (word(self.types, at)?, word(self.types, at + 4)?);
            let offset = word(self.types, at + 8)?;
            // With bit fields, the upper eight bits are the size of one.
            let offset = if info >> 31 == 1 { offset & 0x00ff_ffff } else { offset };
            if self.is_named(own_name, name) {
                return Some(offset);
            }
            let inner = *self.positions.get(kind as usize)? as usize;
            let is_nameless = self.is_named(own_name, "") && depth < DEEPEST;
            let is_composite =
                is_nameless && matches!(word(self.types, inner + 4)? >> 24 & 0x1f, STRUCT | UNION);
            is_composite
                .then(|| self.member(inner, name, depth + 1))
                .flatten()
                .map(|at| offset + at)
        })
    }

    fn is_named(&self, offset: u32, name: &str) -> bool {
        self.strings.get(offset as usize..).is_some_and(|rest| {
            rest.starts_with(name.as_bytes()) && rest.get(name.len()) == Some(&0)
        })
    }
}

/// Bytes that follow the three words with which each type begins; `None` for a kind that is not known.
const fn size_of_rest(kind: u32, count: usize) -> Option<usize> {
    Some(match kind {
        // Pointers, forward declarations, typedefs, qualifiers, functions, floats, type tags.
        2 | 7..=12 | 16 | 18 => 0,
        // Integers, variables, declaration tags.
        1 | 14 | 17 => 4,
        // Arrays.
        3 => 12,
        // Structures, unions, sections, 64-bit enumerations.
        4 | 5 | 15 | 19 => 12 * count,
        // Enumerations, prototypes of functions.
        6 | 13 => 8 * count,
        _ => return None,
    })
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().map(|word| u32::from_ne_bytes(*word))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_running_kernels_fields_are_found() {
        let Ok(btf) = std::fs::read(PATH) else { return };
        let types = KernelTypes::find(&btf).unwrap();
        assert!(types.kernel_socket.0 > types.cookie, "{types:?}");
        assert!(types.state > 0 && types.task_flags > 0, "{types:?}");
    }

    #[test]
    fn members_of_nameless_unions_and_structures_are_found() {
        let Ok(btf) = std::fs::read(PATH) else { return };
        let wanted = [("sock_common", "skc_daddr"), ("sock_common", "skc_rcv_saddr")];
        assert_eq!(offsets(&btf, wanted), Some([0, 4]), "the two are behind two levels");
        assert_eq!(offsets(&btf, [("sock_common", "skc_nothing")]), None);
    }

    #[test]
    fn what_is_cut_off_or_nonsense_is_not_found() {
        let Ok(btf) = std::fs::read(PATH) else { return };
        for length in [0, 1, 23, 24, 1000, btf.len() / 2] {
            assert_eq!(KernelTypes::find(&btf[..length]), None, "{length}");
        }
        assert_eq!(KernelTypes::find(&[0x5a; 4096]), None);
    }
}
