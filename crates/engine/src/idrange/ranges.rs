//! Interval arithmetic on id ranges. Ends are 64 bits wide, because the last id is the last 32-bit number.

use plywood_kernel::idmap::IdRange;

/// Sorted, without empty ranges, neighbours and overlaps joined. The last 32-bit number is no id and falls away.
pub(super) fn merged(ranges: impl IntoIterator<Item = IdRange>) -> Vec<IdRange> {
    let mut sorted: Vec<(u64, u64)> = ranges
        .into_iter()
        .filter(|range| range.length > 0)
        .map(|range| (u64::from(range.start), end_of(&range).min(u64::from(u32::MAX))))
        .collect();
    sorted.sort_unstable();
    let mut joined: Vec<(u64, u64)> = Vec::with_capacity(sorted.len());
    for (start, end) in sorted {
        match joined.last_mut() {
            Some(last) if start <= last.1 => last.1 = last.1.max(end),
            _ => joined.push((start, end)),
        }
    }
    joined.into_iter().filter_map(|(start, end)| range(start, end)).collect()
}

/// What is left of `ranges` without `holes`; both as [`merged`] returns them.
pub(super) fn subtract(ranges: &[IdRange], holes: &[IdRange]) -> Vec<IdRange> {
    let mut left = Vec::new();
    for whole in ranges {
        let (mut start, end) = (u64::from(whole.start), end_of(whole));
        for hole in &holes[first_reaching(holes, start)..] {
            if u64::from(hole.start) >= end {
                break;
            }
            left.extend(range(start, u64::from(hole.start)));
            start = start.max(end_of(hole));
        }
        left.extend(range(start, end));
    }
    left
}

/// The slots of `length` ids in `fragments`, each aligned to its fragment's start, that touch nothing in `taken`
/// (as [`merged`] returns it).
pub(super) fn free_slots<'a>(
    fragments: &'a [IdRange],
    taken: &'a [IdRange],
    length: u32,
) -> impl Iterator<Item = IdRange> + 'a {
    fragments
        .iter()
        .flat_map(move |fragment| {
            (0..fragment.length / length)
                .map(move |slot| IdRange { start: fragment.start + slot * length, length })
        })
        .filter(move |slot| {
            taken
                .get(first_reaching(taken, u64::from(slot.start)))
                .is_none_or(|next| u64::from(next.start) >= end_of(slot))
        })
}

/// Index of the first range that ends after `start`.
fn first_reaching(ranges: &[IdRange], start: u64) -> usize {
    ranges.partition_point(|range| end_of(range) <= start)
}

fn end_of(range: &IdRange) -> u64 {
    range.end()
}

fn range(start: u64, end: u64) -> Option<IdRange> {
    let length = u32::try_from(end.checked_sub(start)?).ok()?;
    (length > 0).then_some(IdRange { start: u32::try_from(start).ok()?, length })
}
