//! Where the running kernel has some fields of its structures, by its own description of its types (BTF,
//! `Documentation/bpf/btf.rst`).
//!
//! aya's reader keeps what it reads to itself and takes 20 MB for it; four members of three
//! structures are found in one pass over the bytes.

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

/// The two sections of a description.
struct Btf<'a> {
    types: &'a [u8],
    strings: &'a [u8],
}

/// Kinds of types, by their numbers.
const STRUCT: u32 = 4;

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
        Some(Self { types: section(8)?, strings: section(16)? })
    }

    /// Where members are in their structures, in bits.
    fn members<const N: usize>(&self, wanted: [(&str, &str); N]) -> Option<[u32; N]> {
        let mut found = [None; N];
        let mut at = 0;
        while at < self.types.len() {
            let (name, info) = (word(self.types, at)?, word(self.types, at + 4)?);
            let (kind, count) = (info >> 24 & 0x1f, info & 0xffff);
            at += 12;
            if kind == STRUCT {
                for (place, (structure, member)) in found.iter_mut().zip(wanted) {
                    if self.is_named(name, structure) {
                        *place = place.or_else(|| self.member(at, count, info >> 31, member));
                    }
                }
            }
            at += size_of_rest(kind, count as usize)?;
        }
        let mut desired_frontends = [0; N];
        for (place, found) in desired_frontends.iter_mut().zip(found) {
            *place = found?;
        }
        Some(desired_frontends)
    }

    fn member(&self, at: usize, count: u32, has_bit_fields: u32, name: &str) -> Option<u32> {
        let all = (0..count as usize).map(|number| at + number * 12);
        let found = all
            .into_iter()
            .find(|&at| word(self.types, at).is_some_and(|offset| self.is_named(offset, name)))?;
        let offset = word(self.types, found + 8)?;
        // With bit fields, the upper eight bits are the size of one.
        Some(if has_bit_fields == 1 { offset & 0x00ff_ffff } else { offset })
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
    fn what_is_cut_off_or_nonsense_is_not_found() {
        let Ok(btf) = std::fs::read(PATH) else { return };
        for length in [0, 1, 23, 24, 1000, btf.len() / 2] {
            assert_eq!(KernelTypes::find(&btf[..length]), None, "{length}");
        }
        assert_eq!(KernelTypes::find(&[0x5a; 4096]), None);
    }
}
