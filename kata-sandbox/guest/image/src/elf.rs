//! As much of the ELF format as an image maker needs: notes, one section by its
//! name, and whether a program needs an interpreter. 64-bit, little-endian.
//!
//! Every offset and size comes from the file and is checked.

use crate::Architecture;

/// Why bytes are not the ELF file that was wanted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ElfError {
    /// No ELF file, or not a 64-bit little-endian one.
    #[error("not a 64-bit little-endian ELF file")]
    NotElf,
    /// A header points outside the file.
    #[error("the ELF file's {0} lies outside the file")]
    Outside(&'static str),
}

/// An ELF file in memory.
#[derive(Clone, Copy)]
pub(crate) struct Elf<'a> {
    bytes: &'a [u8],
}

/// A segment, as its program header describes it.
struct Segment<'a> {
    kind: u32,
    bytes: &'a [u8],
}

/// The `e_shstrndx` and section header fields that are read.
struct Section {
    name: usize,
    kind: u32,
    offset: usize,
    size: usize,
}

const PROGRAM_INTERPRETER: u32 = 3;
const PROGRAM_NOTE: u32 = 4;
const SECTION_NOBITS: u32 = 8;

impl<'a> Elf<'a> {
    pub(crate) fn parse(bytes: &'a [u8]) -> Result<Self, ElfError> {
        let is_elf = bytes.starts_with(&[0x7f, b'E', b'L', b'F', 2, 1]) && bytes.len() >= 64;
        is_elf.then_some(Self { bytes }).ok_or(ElfError::NotElf)
    }

    /// The architecture, or its number where images are not made for it.
    pub(crate) fn architecture(&self) -> Result<Architecture, u16> {
        let machine = u16_at(self.bytes, 18).unwrap_or(0);
        [Architecture::X86_64, Architecture::Aarch64]
            .into_iter()
            .find(|architecture| architecture.elf_machine() == machine)
            .ok_or(machine)
    }

    /// Whether the program runs without a dynamic loader.
    pub(crate) fn is_static(&self) -> Result<bool, ElfError> {
        for segment in self.segments() {
            if segment?.kind == PROGRAM_INTERPRETER {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Whether a note of this owner and kind is in a note segment.
    pub(crate) fn has_note(&self, owner: &[u8], kind: u32) -> Result<bool, ElfError> {
        for segment in self.segments() {
            let segment = segment?;
            let wanted = |note: Note<'_>| note.owner == owner && note.kind == kind;
            if segment.kind == PROGRAM_NOTE
                && (Notes {
                    rest: segment.bytes,
                })
                .any(wanted)
            {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The bytes of the section `name`; `None` when there is no such section.
    pub(crate) fn section(&self, name: &str) -> Result<Option<&'a [u8]>, ElfError> {
        let header = ElfError::Outside("section header");
        let count = u16_at(self.bytes, 60).ok_or(ElfError::NotElf)?;
        let names = u16_at(self.bytes, 62).ok_or(ElfError::NotElf)?;
        let names = self.section_header(names).ok_or(header.clone())?;
        let names = self.section_bytes(&names)?;
        for index in 0..count {
            let section = self.section_header(index).ok_or(header.clone())?;
            if c_string(names, section.name) == Some(name.as_bytes()) {
                return self.section_bytes(&section).map(Some);
            }
        }
        Ok(None)
    }

    fn section_bytes(&self, section: &Section) -> Result<&'a [u8], ElfError> {
        if section.kind == SECTION_NOBITS {
            return Ok(&[]);
        }
        slice(self.bytes, section.offset, section.size).ok_or(ElfError::Outside("section"))
    }

    fn section_header(&self, index: u16) -> Option<Section> {
        let table = usize_at(self.bytes, 40)?;
        let size = usize::from(u16_at(self.bytes, 58)?);
        let start = table.checked_add(size.checked_mul(usize::from(index))?)?;
        let header = slice(self.bytes, start, 64)?;
        Some(Section {
            name: u32_at(header, 0)? as usize,
            kind: u32_at(header, 4)?,
            offset: usize_at(header, 24)?,
            size: usize_at(header, 32)?,
        })
    }

    fn segments(&self) -> impl Iterator<Item = Result<Segment<'a>, ElfError>> {
        let this = *self;
        let count = u16_at(self.bytes, 56).unwrap_or(0);
        (0..count).map(move |index| this.segment(index).ok_or(ElfError::Outside("segment")))
    }

    fn segment(&self, index: u16) -> Option<Segment<'a>> {
        let table = usize_at(self.bytes, 32)?;
        let size = usize::from(u16_at(self.bytes, 54)?);
        let start = table.checked_add(size.checked_mul(usize::from(index))?)?;
        let header = slice(self.bytes, start, 56)?;
        let bytes = slice(self.bytes, usize_at(header, 8)?, usize_at(header, 32)?)?;
        Some(Segment {
            kind: u32_at(header, 0)?,
            bytes,
        })
    }
}

struct Note<'a> {
    owner: &'a [u8],
    kind: u32,
}

struct Notes<'a> {
    rest: &'a [u8],
}

impl<'a> Iterator for Notes<'a> {
    type Item = Note<'a>;

    fn next(&mut self) -> Option<Note<'a>> {
        let owner_size = u32_at(self.rest, 0)? as usize;
        let description_size = u32_at(self.rest, 4)? as usize;
        let kind = u32_at(self.rest, 8)?;
        let owner = slice(self.rest, 12, owner_size)?;
        let description = owner_size.checked_next_multiple_of(4)?.checked_add(12)?;
        let next = description_size
            .checked_next_multiple_of(4)?
            .checked_add(description)?;
        self.rest = self.rest.get(next..).unwrap_or_default();
        Some(Note {
            owner: owner.strip_suffix(&[0]).unwrap_or(owner),
            kind,
        })
    }
}

fn slice(bytes: &[u8], start: usize, size: usize) -> Option<&[u8]> {
    bytes.get(start..start.checked_add(size)?)
}

fn c_string(bytes: &[u8], start: usize) -> Option<&[u8]> {
    bytes.get(start..)?.split(|byte| *byte == 0).next()
}

pub(crate) fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    bytes
        .get(at..)?
        .first_chunk()
        .copied()
        .map(u16::from_le_bytes)
}

pub(crate) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes
        .get(at..)?
        .first_chunk()
        .copied()
        .map(u32::from_le_bytes)
}

fn usize_at(bytes: &[u8], at: usize) -> Option<usize> {
    let value = bytes
        .get(at..)?
        .first_chunk()
        .copied()
        .map(u64::from_le_bytes)?;
    usize::try_from(value).ok()
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use proptest::prelude::*;

    /// An ELF file with one segment and one section of these bytes.
    pub(crate) fn elf(machine: u16, segment_kind: u32, section: &str, body: &[u8]) -> Vec<u8> {
        let names = format!("\0{section}\0");
        let (body_at, names_at) = (64 + 56, 64 + 56 + body.len());
        let sections_at = names_at + names.len();
        let mut file = vec![0; 64];
        file[..6].copy_from_slice(&[0x7f, b'E', b'L', b'F', 2, 1]);
        let mut put = |at: usize, bytes: &[u8]| file[at..at + bytes.len()].copy_from_slice(bytes);
        put(18, &machine.to_le_bytes());
        put(32, &64_u64.to_le_bytes());
        put(40, &(sections_at as u64).to_le_bytes());
        put(54, &56_u16.to_le_bytes());
        put(56, &1_u16.to_le_bytes());
        put(58, &64_u16.to_le_bytes());
        put(60, &2_u16.to_le_bytes());
        put(62, &1_u16.to_le_bytes());
        let mut segment = [0; 56];
        segment[..4].copy_from_slice(&segment_kind.to_le_bytes());
        segment[8..16].copy_from_slice(&(body_at as u64).to_le_bytes());
        segment[32..40].copy_from_slice(&(body.len() as u64).to_le_bytes());
        file.extend(segment);
        file.extend(body);
        file.extend(names.as_bytes());
        for (name, at, size) in [(1_u32, body_at, body.len()), (0, names_at, names.len())] {
            let mut header = [0; 64];
            header[..4].copy_from_slice(&name.to_le_bytes());
            header[4..8].copy_from_slice(&1_u32.to_le_bytes());
            header[24..32].copy_from_slice(&(at as u64).to_le_bytes());
            header[32..40].copy_from_slice(&(size as u64).to_le_bytes());
            file.extend(header);
        }
        file
    }

    /// A note of the owner `Xen`.
    pub(crate) fn xen_note(kind: u32) -> Vec<u8> {
        let mut note = [4_u32, 4, kind].map(u32::to_le_bytes).concat();
        note.extend(b"Xen\0\x01\0\0\0");
        note
    }

    #[test]
    fn a_note_is_found_after_another() {
        let file = elf(
            62,
            PROGRAM_NOTE,
            ".notes",
            &[xen_note(1), xen_note(18)].concat(),
        );
        let elf = Elf::parse(&file).unwrap();
        assert_eq!(elf.has_note(b"Xen", 18), Ok(true));
        assert_eq!(elf.has_note(b"Xen", 17), Ok(false));
        assert_eq!(elf.has_note(b"GNU", 18), Ok(false));
    }

    #[test]
    fn a_section_is_found_by_its_name() {
        let file = elf(183, 1, ".modinfo", b"license=GPL\0");
        let elf = Elf::parse(&file).unwrap();
        assert_eq!(elf.section(".modinfo"), Ok(Some(&b"license=GPL\0"[..])));
        assert_eq!(elf.section(".text"), Ok(None));
        assert_eq!(elf.architecture(), Ok(Architecture::Aarch64));
    }

    #[test]
    fn a_program_with_an_interpreter_is_not_static() {
        let with = elf(62, PROGRAM_INTERPRETER, ".interp", b"/lib/ld.so\0");
        let without = elf(62, 1, ".text", b"");
        assert_eq!(Elf::parse(&with).unwrap().is_static(), Ok(false));
        assert_eq!(Elf::parse(&without).unwrap().is_static(), Ok(true));
    }

    #[test]
    fn a_header_that_points_outside_is_an_error() {
        let mut file = elf(62, PROGRAM_NOTE, ".notes", &xen_note(18));
        file[72..80].copy_from_slice(&u64::MAX.to_le_bytes());
        let elf = Elf::parse(&file).unwrap();
        assert_eq!(elf.has_note(b"Xen", 18), Err(ElfError::Outside("segment")));
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(
            mut file in Just(elf(62, PROGRAM_NOTE, ".notes", &xen_note(18))),
            changes in proptest::collection::vec((0_usize..400, any::<u8>()), 0..16),
            length in 0_usize..400,
        ) {
            for (at, byte) in changes {
                if let Some(target) = file.get_mut(at) {
                    *target = byte;
                }
            }
            file.truncate(length);
            if let Ok(elf) = Elf::parse(&file) {
                drop(elf.has_note(b"Xen", 18));
                drop(elf.section(".notes"));
                drop(elf.is_static());
            }
        }
    }
}
