//! The program in a generated image: static ELF files of a few bytes, written by hand.
//!
//! ```text
//! 0x00  ELF header, 64 bytes       7f 45 4c 46  02 01 01 00 ...   64 bits, little endian, version 1, System V
//!                                  e_type 2 (a fixed address), e_machine, e_version 1, e_entry 0x400078,
//!                                  e_phoff 0x40, no sections, e_ehsize 64, one program header of 56 bytes
//! 0x40  program header, 56 bytes   p_type 1 (load), p_flags 5 (read, execute), p_offset 0, p_vaddr 0x400000,
//!                                  p_filesz = p_memsz = the whole file, p_align 0x10000 (the largest page)
//! 0x78  the code
//! ```
//! No data, no stack use, no libraries: whatever a start costs beyond them is not the program's.

/// What it does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Program {
    /// Ends at once with exit code 0.
    Exit,
    /// Sleeps until it is killed.
    Pause,
}

/// Where the file lies in memory.
const BASE: u64 = 0x0040_0000;
const ELF_HEADER: u16 = 64;
const PROGRAM_HEADER: u16 = 56;
const CODE: u64 = ELF_HEADER as u64 + PROGRAM_HEADER as u64;

/// ```text
/// b8 3c 00 00 00   mov eax, 60      exit
/// 31 ff            xor edi, edi     0
/// 0f 05            syscall
/// ```
const X86_64_EXIT: &[u8] = &[0xb8, 0x3c, 0x00, 0x00, 0x00, 0x31, 0xff, 0x0f, 0x05];

/// ```text
/// b8 22 00 00 00   mov eax, 34      pause
/// 0f 05            syscall
/// eb f7            jmp -9           a signal that was handled is no end
/// ```
const X86_64_PAUSE: &[u8] = &[0xb8, 0x22, 0x00, 0x00, 0x00, 0x0f, 0x05, 0xeb, 0xf7];

/// ```text
/// d2800000   mov x0, #0       0
/// d2800ba8   mov x8, #93      exit
/// d4000001   svc #0
/// ```
const AARCH64_EXIT: &[u32] = &[0xd280_0000, 0xd280_0ba8, 0xd400_0001];

/// ```text
/// d2800000   mov x0, #0       no descriptors
/// d2800001   mov x1, #0
/// d2800002   mov x2, #0       no time limit
/// d2800003   mov x3, #0       no signal mask
/// d2800004   mov x4, #0
/// d2800928   mov x8, #73      ppoll; there is no pause on this architecture
/// d4000001   svc #0
/// 17fffff9   b -28            again
/// ```
const AARCH64_PAUSE: &[u32] =
    &[0xd280_0000, 0xd280_0001, 0xd280_0002, 0xd280_0003, 0xd280_0004, 0xd280_0928, 0xd400_0001, 0x17ff_fff9];

/// The file, for an architecture by its OCI name; none for one nobody has written it for.
pub fn elf(program: Program, architecture: &str) -> Option<Vec<u8>> {
    let words = |words: &[u32]| words.iter().flat_map(|word| word.to_le_bytes()).collect::<Vec<u8>>();
    // EM_X86_64, EM_AARCH64
    let (machine, code) = match (architecture, program) {
        ("amd64", Program::Exit) => (62, X86_64_EXIT.to_vec()),
        ("amd64", Program::Pause) => (62, X86_64_PAUSE.to_vec()),
        ("arm64", Program::Exit) => (183, words(AARCH64_EXIT)),
        ("arm64", Program::Pause) => (183, words(AARCH64_PAUSE)),
        _ => return None,
    };
    Some(file(machine, &code))
}

fn file(machine: u16, code: &[u8]) -> Vec<u8> {
    let size = CODE + code.len() as u64;
    let mut file = Vec::new();
    // e_ident: magic, ELFCLASS64, ELFDATA2LSB, EV_CURRENT, ELFOSABI_SYSV, padding
    file.extend([0x7f, b'E', b'L', b'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    // e_type ET_EXEC, e_machine, e_version
    file.extend(2_u16.to_le_bytes());
    file.extend(machine.to_le_bytes());
    file.extend(1_u32.to_le_bytes());
    // e_entry, e_phoff, e_shoff, e_flags
    file.extend((BASE + CODE).to_le_bytes());
    file.extend(u64::from(ELF_HEADER).to_le_bytes());
    file.extend(0_u64.to_le_bytes());
    file.extend(0_u32.to_le_bytes());
    // e_ehsize, e_phentsize, e_phnum, e_shentsize, e_shnum, e_shstrndx
    for half in [ELF_HEADER, PROGRAM_HEADER, 1, 0, 0, 0] {
        file.extend(half.to_le_bytes());
    }
    // p_type PT_LOAD, p_flags PF_R|PF_X
    file.extend(1_u32.to_le_bytes());
    file.extend(5_u32.to_le_bytes());
    // p_offset, p_vaddr, p_paddr, p_filesz, p_memsz, p_align
    for word in [0, BASE, BASE, size, size, 0x1_0000] {
        file.extend(word.to_le_bytes());
    }
    file.extend(code);
    file
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;
    use std::os::unix::process::ExitStatusExt as _;
    use std::process::Command;

    use plywood_image::Platform;

    use super::*;

    fn command(program: Program, dir: &tempfile::TempDir) -> Command {
        let path = dir.path().join("program");
        std::fs::write(&path, elf(program, Platform::host().architecture()).unwrap()).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        Command::new(path)
    }

    #[test]
    fn one_ends_well_at_once() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(command(Program::Exit, &dir).status().unwrap().code(), Some(0));
    }

    #[test]
    fn the_other_sleeps_until_it_is_killed() {
        let dir = tempfile::tempdir().unwrap();
        let mut child = command(Program::Pause, &dir).spawn().unwrap();
        std::thread::sleep(std::time::Duration::from_millis(100));
        assert!(child.try_wait().unwrap().is_none(), "it has ended");
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", child.id())).unwrap();
        assert_eq!(stat.rsplit_once(") ").unwrap().1.chars().next(), Some('S'), "it does not sleep: {stat}");
        child.kill().unwrap();
        assert_eq!(child.wait().unwrap().signal(), Some(9));
    }

    #[test]
    fn headers_are_as_documented_on_all_architectures() {
        for architecture in ["amd64", "arm64"] {
            for program in [Program::Exit, Program::Pause] {
                let file = elf(program, architecture).unwrap();
                assert_eq!(file[..4], *b"\x7fELF");
                let entry = u64::from_le_bytes(file[24..32].try_into().unwrap());
                assert_eq!(entry, BASE + 0x78);
                let size = u64::from_le_bytes(file[0x60..0x68].try_into().unwrap());
                assert_eq!(size, file.len() as u64);
            }
        }
        assert_eq!(elf(Program::Exit, "s390x"), None);
    }
}
