//! Buffers and header maps that one exchange leaves to the next on its thread, so that a connection that waits holds none and one that works allocates none.

use std::cell::RefCell;

use http::HeaderMap;

#[derive(Debug, Default)]
struct Spare {
    buffer: Vec<u8>,
    fields: Vec<HeaderMap>,
}

thread_local! {
    static SPARE: RefCell<Spare> = RefCell::default();
}

/// An empty buffer for a head.
pub(in crate::edge) fn buffer() -> Vec<u8> {
    SPARE.with_borrow_mut(|spare| std::mem::take(&mut spare.buffer))
}

/// Keeps a buffer for whoever writes next, unless it has grown.
pub(in crate::edge) fn keep_buffer(mut buffer: Vec<u8>) {
    if (1..=BUFFER_BYTES_MAX).contains(&buffer.capacity()) {
        buffer.clear();
        SPARE.with_borrow_mut(|spare| spare.buffer = buffer);
    }
}

/// An empty map for a head's fields.
pub(super) fn fields() -> HeaderMap {
    SPARE
        .with_borrow_mut(|spare| spare.fields.pop())
        .unwrap_or_default()
}

/// Keeps a map for whoever reads next, unless it has grown or there are many.
pub(super) fn keep_fields(mut fields: HeaderMap) {
    if (1..=FIELDS_MAX).contains(&fields.capacity()) {
        fields.clear();
        SPARE.with_borrow_mut(|spare| {
            if spare.fields.len() < MAPS_MAX {
                spare.fields.push(fields);
            }
        });
    }
}

/// Bytes.
const BUFFER_BYTES_MAX: usize = 16 * 1024;
/// Room for fields in a map that is kept.
const FIELDS_MAX: usize = 64;
/// Maps that are kept: some 5 KiB each.
const MAPS_MAX: usize = 16;
