//! The contents of a file: shared with the original where the file system can, else copied, holes kept.

use std::convert::Infallible;
use std::fs::File;
use std::path::Path;

use plywood_kernel::copy as contents;

use super::tree::{Copy, CopyError};

/// Copies `size` bytes of `source` into the empty file `target`.
pub(super) fn copy(
    copy: &mut Copy<'_>,
    source: &File,
    target: &File,
    size: u64,
    path: &Path,
) -> Result<(), CopyError> {
    if size == 0 {
        return Ok(());
    }
    let failed = |source| CopyError::Call { path: path.to_owned(), source };
    if !copy.no_reflinks {
        if contents::share(source, target).map_err(failed)? {
            copy.stats.reflinked += 1;
            copy.stats.bytes += size;
            return Ok(());
        }
        // Another file system, or one that shares nothing: it will not change its mind during this copy.
        copy.no_reflinks = true;
    }
    let copied = contents::data(source, target, size, |_| Ok::<_, Infallible>(()));
    copy.stats.bytes += copied.map_err(|error| match error {
        contents::CopyError::Call(error) => failed(error),
        contents::CopyError::Stopped(never) => match never {},
    })?;
    Ok(())
}
