//! The allocator's free memory.
//!
//! glibc keeps what is freed in the arena it came from, and threads have arenas of their own: what one thread freed, the
//! next one does not use. Where memory is bounded over several threads, it has to be given back in between.

/// Returns free memory of all arenas to the kernel. Where the C library is not glibc nothing happens.
pub fn return_free_memory() {
    #[cfg(target_env = "gnu")]
    // SAFETY: malloc_trim takes the arenas' own locks and only touches memory that is free; it may be called at any time
    // from any thread. Its answer, whether there was anything to return, is of no use.
    unsafe {
        libc::malloc_trim(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resident() -> usize {
        let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
        statm.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * rustix::param::page_size()
    }

    #[test]
    #[cfg(target_env = "gnu")]
    fn what_another_thread_freed_is_returned() {
        let kept = std::thread::spawn(|| {
            let mut pieces: Vec<Vec<u8>> = (0..1024).map(|_| vec![1; 64 << 10]).collect();
            // The last one keeps the arena from shrinking by itself.
            pieces.split_off(1023)
        });
        let kept = kept.join().unwrap();
        let before = resident();
        return_free_memory();
        assert!(resident() + (48 << 20) < before, "{before}, {}", resident());
        drop(kept);
    }
}
