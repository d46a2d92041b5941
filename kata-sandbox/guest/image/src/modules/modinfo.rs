//! What a module says about itself, and the signature after its end.

use crate::elf::{Elf, ElfError};

const SIGNATURE_MAGIC: &[u8] = b"~Module signature appended~\n";
/// Size of the kernel's `struct module_signature`.
const SIGNATURE_HEADER: usize = 12;

/// What must, and what should, be loaded before a module.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Needs {
    /// Modules whose symbols it uses.
    pub(super) hard: Vec<String>,
    /// Modules that it asks for if they exist.
    pub(super) soft: Vec<String>,
}

impl Needs {
    /// Reads them from the module's bytes.
    pub(super) fn of(module: &[u8]) -> Result<Self, ElfError> {
        let info = Elf::parse(module)?.section(".modinfo")?.unwrap_or_default();
        let mut needs = Self::default();
        for field in info.split(|byte| *byte == 0) {
            let field = String::from_utf8_lossy(field);
            if let Some(names) = field.strip_prefix("depends=") {
                needs.hard.extend(
                    names
                        .split(',')
                        .filter(|name| !name.is_empty())
                        .map(Into::into),
                );
            } else if let Some(words) = field.strip_prefix("softdep=") {
                needs.soft.extend(before(words));
            }
        }
        Ok(needs)
    }
}

/// The names after `pre:` in a soft dependency such as `pre: a b post: c`.
fn before(words: &str) -> impl Iterator<Item = String> {
    let mut is_before = false;
    words.split_whitespace().filter_map(move |word| {
        match word {
            "pre:" => is_before = true,
            "post:" => is_before = false,
            name if is_before => return Some(name.to_owned()),
            _ => {}
        }
        None
    })
}

/// The module without the signature after its end. A kernel that does not insist
/// on signatures loads it just so, and is spared the public-key arithmetic.
pub(super) fn without_signature(module: &[u8]) -> &[u8] {
    unsigned_length(module)
        .and_then(|length| module.get(..length))
        .unwrap_or(module)
}

fn unsigned_length(module: &[u8]) -> Option<usize> {
    let signed = module.strip_suffix(SIGNATURE_MAGIC)?;
    let header_at = signed.len().checked_sub(SIGNATURE_HEADER)?;
    let header = &signed[header_at..];
    let signer = usize::from(header[3]) + usize::from(header[4]);
    let signature = u32::from_be_bytes(*header.last_chunk()?) as usize;
    header_at.checked_sub(signer)?.checked_sub(signature)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::elf::tests::elf;
    use proptest::prelude::*;

    #[test]
    fn hard_and_soft_needs_are_read() {
        let info = b"license=GPL\0depends=virtio,virtio-ring\0softdep=pre: crc32c a post: z\0";
        let needs = Needs::of(&elf(62, 1, ".modinfo", info)).unwrap();
        assert_eq!(needs.hard, ["virtio", "virtio-ring"]);
        assert_eq!(needs.soft, ["crc32c", "a"]);
    }

    #[test]
    fn a_module_that_needs_nothing_has_an_empty_field() {
        let needs = Needs::of(&elf(62, 1, ".modinfo", b"depends=\0name=x\0")).unwrap();
        assert_eq!(needs, Needs::default());
    }

    #[test]
    fn a_signature_is_cut_off() {
        let mut module = b"module bytes".to_vec();
        module.extend(b"signature");
        module.extend([0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 9]);
        module.extend(SIGNATURE_MAGIC);
        assert_eq!(without_signature(&module), b"module bytes");
        assert_eq!(without_signature(b"module bytes"), b"module bytes");
    }

    #[test]
    fn a_signature_that_claims_too_much_is_left_alone() {
        let module = [&[0xff; SIGNATURE_HEADER], SIGNATURE_MAGIC].concat();
        assert_eq!(without_signature(&module), module);
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(module: Vec<u8>, info: Vec<u8>) {
            without_signature(&[&module, SIGNATURE_MAGIC].concat());
            drop(Needs::of(&module));
            drop(Needs::of(&elf(62, 1, ".modinfo", &info)));
        }
    }
}
