//! The program that follows a script: 32-bit, flat, ring 0, integers only.

use super::{INTERRUPTS, PROGRAM, SCRIPT, SERIAL};

/// The vector that lines are given.
pub(crate) const VECTOR: u8 = 0x30;

/// Code with places in it that are filled in later.
#[derive(Default)]
struct Code(Vec<u8>);

impl Code {
    fn here(&self) -> u32 {
        PROGRAM + u32::try_from(self.0.len()).unwrap()
    }

    fn add(&mut self, bytes: &[u8]) -> &mut Self {
        self.0.extend(bytes);
        self
    }

    fn word(&mut self, word: u32) -> &mut Self {
        self.add(&word.to_le_bytes())
    }

    /// `jmp` to an address.
    fn jump(&mut self, to: u32) {
        let after = self.here() + 5;
        self.add(&[0xe9]).word(to.wrapping_sub(after));
    }

    fn put(&mut self, at: u32, word: u32) {
        let at = usize::try_from(at - PROGRAM).unwrap();
        self.0[at..at + 4].copy_from_slice(&word.to_le_bytes());
    }
}

const STEPS: usize = 17;

/// The whole program: code, jump table, descriptor tables.
pub(crate) fn program() -> Vec<u8> {
    let mut code = Code::default();
    code.add(&[0xbc]).word(0x9_0000); // mov esp, …
    code.add(&[0x0f, 0x01, 0x15]); // lgdt […]
    let descriptors = code.here();
    code.word(0);
    code.add(&[0x0f, 0x01, 0x1d]); // lidt […]
    let interrupts = code.here();
    code.word(0);
    code.add(&[0xbe]).word(SCRIPT).add(&[0xfc]); // mov esi, …; cld
    let next = code.here();
    code.add(&[0xad, 0xff, 0x24, 0x85]); // lodsd; jmp [table + eax * 4]
    let table = code.here();
    code.word(0);
    let steps = write_steps(&mut code, next);
    let handler = code.here();
    code.add(&[0xff, 0x05]).word(INTERRUPTS); // inc dword […]
    code.add(&[0xc7, 0x05]).word(0xfee0_00b0).word(0); // mov dword [end of interrupt], 0
    // An emulator of ring 0 has no iretd: pop ebp; add esp, 4; popfd; jmp ebp
    code.add(&[0x5d, 0x83, 0xc4, 4, 0x9d, 0xff, 0xe5]);
    let at = code.here();
    code.put(table, at);
    for step in steps {
        code.word(step);
    }
    write_tables(&mut code, (descriptors, interrupts), handler);
    code.0
}

/// Writes what each step does, and says where.
fn write_steps(code: &mut Code, next: u32) -> [u32; STEPS] {
    let [serial_low, serial_high] = SERIAL.to_le_bytes();
    let console = [0x66, 0xba, serial_low, serial_high]; // mov dx, SERIAL
    let bodies: [Vec<u8>; STEPS] = [
        // lodsd; mov edi, eax; lodsd; mov [edi], eax
        vec![0xad, 0x89, 0xc7, 0xad, 0x89, 0x07],
        // lodsd; mov ebx, [eax]; mov ecx, 4
        // again: mov al, bl; out dx, al; shr ebx, 8; dec ecx; jnz again
        [
            &[0xad, 0x8b, 0x18, 0xb9, 4, 0, 0, 0][..],
            &console,
            &[0x88, 0xd8, 0xee, 0xc1, 0xeb, 8, 0x49, 0x75, 0xf7],
        ]
        .concat(),
        // lodsd; mov edi, eax; lodsd; again: cmp [edi], ax; jne again
        vec![0xad, 0x89, 0xc7, 0xad, 0x66, 0x39, 0x07, 0x75, 0xfb],
        // lodsd; mov edi, eax; lodsd; mov ecx, eax
        // again: mov al, [edi]; out dx, al; inc edi; dec ecx; jnz again
        [
            &[0xad, 0x89, 0xc7, 0xad, 0x89, 0xc1][..],
            &console,
            &[0x8a, 0x07, 0xee, 0x47, 0x49, 0x75, 0xf9],
        ]
        .concat(),
        // lodsd; mov edx, eax; lodsd; out dx, al
        vec![0xad, 0x89, 0xc2, 0xad, 0xee],
        // lodsd; mov edx, eax; in al, dx; out dx, al
        [&[0xad, 0x89, 0xc2, 0xec][..], &console, &[0xee]].concat(),
        // mov al, '.'; again: out dx, al; jmp again
        [&console[..], &[0xb0, b'.', 0xee, 0xeb, 0xfd]].concat(),
        vec![0xfb],                   // sti
        vec![0xf3, 0x0f, 0xb8, 0xc0], // popcnt eax, eax
        vec![0x0f, 0x0b],             // ud2
        vec![0xfa, 0xf4],             // cli; hlt
        // lodsd; mov edi, eax; lodsd; mov [edi], ax
        vec![0xad, 0x89, 0xc7, 0xad, 0x66, 0x89, 0x07],
        // lodsd; mov edi, eax; lodsd; mov [edi], al
        vec![0xad, 0x89, 0xc7, 0xad, 0x88, 0x07],
        // lodsd; mov edi, eax; lodsd; mov ebx, eax; mov edx, [ebx]; mov [edi], edx
        // mov edx, [ebx + 4]; mov [edi + 4], edx
        vec![
            0xad, 0x89, 0xc7, 0xad, 0x89, 0xc3, 0x8b, 0x13, 0x89, 0x17, 0x8b, 0x53, 4, 0x89, 0x57,
            4,
        ],
        // lodsd; mov edx, eax; lodsd; out dx, eax
        vec![0xad, 0x89, 0xc2, 0xad, 0xef],
        // lodsd; mov edx, eax; in eax, dx; mov ebx, eax; mov ecx, 4
        // again: mov al, bl; out dx, al; shr ebx, 8; dec ecx; jnz again
        [
            &[0xad, 0x89, 0xc2, 0xed, 0x89, 0xc3, 0xb9, 4, 0, 0, 0][..],
            &console,
            &[0x88, 0xd8, 0xee, 0xc1, 0xeb, 8, 0x49, 0x75, 0xf7],
        ]
        .concat(),
        // lodsd; mov edi, eax; lodsd; mov ebx, eax; again: mov edx, [edi]
        // cmp edx, ebx; jne again
        vec![
            0xad, 0x89, 0xc7, 0xad, 0x89, 0xc3, 0x8b, 0x17, 0x39, 0xda, 0x75, 0xfa,
        ],
    ];
    bodies.map(|body| {
        let at = code.here();
        code.add(&body).jump(next);
        at
    })
}

/// Writes the descriptors: flat segments, and one interrupt.
fn write_tables(code: &mut Code, pointers: (u32, u32), handler: u32) {
    let segments = code.here();
    for descriptor in [0, 0x00cf_9b00_0000_ffff_u64, 0x00cf_9300_0000_ffff] {
        code.add(&descriptor.to_le_bytes());
    }
    let gates = code.here();
    for _ in 0..VECTOR {
        code.add(&[0; 8]);
    }
    let (low, high) = (handler & 0xffff, handler & 0xffff_0000);
    code.word(8 << 16 | low).word(high | 0x8e00);
    let pointer = code.here();
    code.put(pointers.0, pointer);
    code.add(&23u16.to_le_bytes()).word(segments);
    let pointer = code.here();
    code.put(pointers.1, pointer);
    let limit = (u16::from(VECTOR) + 1) * 8 - 1;
    code.add(&limit.to_le_bytes()).word(gates);
}
