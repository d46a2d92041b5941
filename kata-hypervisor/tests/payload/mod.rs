//! Guests of our own: an ELF file with a PVH entry, a program of a hundred bytes
//! that follows a script, and whatever lies in memory beside it.
#![allow(dead_code, reason = "each user takes a part of it")]
#![allow(
    clippy::allow_attributes,
    reason = "which part is unused differs by user"
)]

pub(crate) mod assembly;
pub(crate) mod pci;
pub(crate) mod queue;

use std::path::{Path, PathBuf};

use assembly::program;

/// Where the parts are.
pub(crate) const PROGRAM: u32 = 0x10_0000;
pub(crate) const SCRIPT: u32 = 0x11_0000;
/// Free for what a test puts there.
pub(crate) const DATA: u32 = 0x20_0000;
/// Counts interrupts.
pub(crate) const INTERRUPTS: u32 = 0x12_0000;
/// The console.
pub(crate) const SERIAL: u16 = 0x3f8;

/// A step of a script.
#[derive(Clone, Copy, Debug)]
#[repr(u32)]
enum Step {
    Write32,
    Show32,
    Await16,
    Show,
    Out8,
    In8,
    ShowForever,
    Interrupts,
    Popcnt,
    Fault,
    Halt,
    Write16,
    Write8,
    Copy64,
    Out32,
    In32,
    Await32,
}

/// A guest that is put together.
#[derive(Clone, Debug, Default)]
pub(crate) struct Payload {
    script: Vec<u32>,
    data: Vec<(u32, Vec<u8>)>,
}

impl Payload {
    fn step(mut self, step: Step, arguments: &[u32]) -> Self {
        self.script.push(step as u32);
        self.script.extend(arguments);
        self
    }

    /// Puts bytes into memory before the guest runs.
    pub(crate) fn data(mut self, at: u32, bytes: impl Into<Vec<u8>>) -> Self {
        self.data.push((at, bytes.into()));
        self
    }

    /// Writes a word to memory or a register.
    pub(crate) fn write(self, at: u32, value: u32) -> Self {
        self.step(Step::Write32, &[at, value])
    }

    /// Writes a half-word.
    pub(crate) fn write16(self, at: u32, value: u16) -> Self {
        self.step(Step::Write16, &[at, value.into()])
    }

    /// Writes a byte.
    pub(crate) fn write8(self, at: u32, value: u8) -> Self {
        self.step(Step::Write8, &[at, value.into()])
    }

    /// Copies eight bytes of memory.
    pub(crate) fn copy(self, from: u32, to: u32) -> Self {
        self.step(Step::Copy64, &[to, from])
    }

    /// Writes a word to a port.
    pub(crate) fn out_word(self, port: u16, value: u32) -> Self {
        self.step(Step::Out32, &[port.into(), value])
    }

    /// Reads a word from a port and writes it to the console.
    pub(crate) fn input_word(self, port: u16) -> Self {
        self.step(Step::In32, &[port.into()])
    }

    /// Reads a word and writes it to the console.
    pub(crate) fn show_word(self, at: u32) -> Self {
        self.step(Step::Show32, &[at])
    }

    /// Waits until the half-word there is this.
    pub(crate) fn wait_for(self, at: u32, value: u16) -> Self {
        self.step(Step::Await16, &[at, value.into()])
    }

    /// Waits until the word there is this.
    pub(crate) fn wait_for_word(self, at: u32, value: u32) -> Self {
        self.step(Step::Await32, &[at, value])
    }

    /// Writes memory to the console.
    pub(crate) fn show(self, at: u32, length: u32) -> Self {
        self.step(Step::Show, &[at, length])
    }

    /// Writes a byte to a port.
    pub(crate) fn out(self, port: u16, value: u8) -> Self {
        self.step(Step::Out8, &[port.into(), value.into()])
    }

    /// Reads a byte from a port and writes it to the console.
    pub(crate) fn input(self, port: u16) -> Self {
        self.step(Step::In8, &[port.into()])
    }

    /// Writes to the console without end.
    pub(crate) fn show_forever(self) -> Self {
        self.step(Step::ShowForever, &[])
    }

    /// Takes interrupts of this line of the I/O APIC, and counts them.
    pub(crate) fn interrupts_from(self, line: u32) -> Self {
        const IO_APIC: u32 = 0xfec0_0000;
        let entry = 0x10 + 2 * line;
        self.write(IO_APIC, entry + 1)
            .write(IO_APIC + 0x10, 0)
            .write(IO_APIC, entry)
            .write(IO_APIC + 0x10, assembly::VECTOR.into())
            .interrupts()
    }

    /// Takes interrupts, and counts them.
    pub(crate) fn interrupts(self) -> Self {
        const LOCAL_APIC: u32 = 0xfee0_0000;
        // The old PC's own controllers are silent.
        self.data(INTERRUPTS, [0; 4])
            .out(0x21, 0xff)
            .out(0xa1, 0xff)
            .write(LOCAL_APIC + 0xf0, 0x1ff)
            .step(Step::Interrupts, &[])
    }

    /// Executes an instruction that an emulator of ring 0 may lack.
    pub(crate) fn popcnt(self) -> Self {
        self.step(Step::Popcnt, &[])
    }

    /// Faults, with nobody to handle it.
    pub(crate) fn fault(self) -> Self {
        self.step(Step::Fault, &[])
    }

    /// Stops for ever.
    pub(crate) fn halt(self) -> Self {
        self.step(Step::Halt, &[])
    }

    /// Resets the machine.
    pub(crate) fn reset(self) -> Self {
        self.out(0x64, 0xfe)
    }

    /// Writes the guest's file into `directory`.
    pub(crate) fn build(&self, directory: &Path) -> PathBuf {
        let path = directory.join("payload");
        std::fs::write(&path, self.elf()).unwrap();
        path
    }

    fn elf(&self) -> Vec<u8> {
        let script = self.script.iter().flat_map(|word| word.to_le_bytes());
        let mut segments = vec![(PROGRAM, program()), (SCRIPT, script.collect())];
        segments.extend(self.data.clone());
        let note = [
            &4u32.to_le_bytes()[..],
            &4u32.to_le_bytes(),
            &18u32.to_le_bytes(),
            b"Xen\0",
            &PROGRAM.to_le_bytes(),
        ]
        .concat();
        let count = segments.len() + 1;
        let mut file = header(u16::try_from(count).unwrap());
        let mut offset = 64 + 56 * count;
        file.extend(segment(4, offset, 0, note.len()));
        offset += note.len();
        for (at, bytes) in &segments {
            file.extend(segment(1, offset, *at, bytes.len()));
            offset += bytes.len();
        }
        file.extend(note);
        segments.iter().for_each(|(_, bytes)| file.extend(bytes));
        file
    }
}

fn header(segments: u16) -> Vec<u8> {
    let mut header = b"\x7fELF\x02\x01\x01".to_vec();
    header.resize(16, 0);
    header.extend(2u16.to_le_bytes()); // an executable
    header.extend(62u16.to_le_bytes()); // for x86_64
    header.extend(1u32.to_le_bytes());
    header.extend(u64::from(PROGRAM).to_le_bytes());
    header.extend(64u64.to_le_bytes()); // the segments follow
    header.extend([0; 12]);
    header.extend(64u16.to_le_bytes());
    header.extend(56u16.to_le_bytes());
    header.extend(segments.to_le_bytes());
    header.resize(64, 0);
    header
}

fn segment(kind: u32, offset: usize, at: u32, length: usize) -> Vec<u8> {
    let mut segment = kind.to_le_bytes().to_vec();
    segment.extend(7u32.to_le_bytes());
    segment.extend((offset as u64).to_le_bytes());
    for address in [u64::from(at); 2] {
        segment.extend(address.to_le_bytes());
    }
    for size in [length as u64; 2] {
        segment.extend(size.to_le_bytes());
    }
    segment.extend(1u64.to_le_bytes());
    segment
}
