//! Copies of the fields of answers that went before, over which those of the next answers are put.

use std::cell::RefCell;

use http::HeaderMap;

use crate::model::fields::Rest;

/// The fields of an answer, without the values that are other ones each time.
struct Made {
    shape: u32,
    map: HeaderMap,
    /// How many answers that it does not suit it outlives.
    patience: u32,
}

thread_local! {
    static MADE: RefCell<[Option<Made>; MADE_MAX]> = const { RefCell::new([const { None }; MADE_MAX]) };
}

/// Fields of an answer of this shape, or none.
pub(super) fn copy(shape: u32) -> HeaderMap {
    MADE.with_borrow(|made| match &made[place(shape)] {
        Some(made) if made.shape == shape => made.map.clone(),
        _ => HeaderMap::new(),
    })
}

/// Takes what an answer of this shape says of the next ones, but not each time: answers that take turns would have each other's fields copied for nothing.
pub(super) fn learn(shape: u32, rest: &Rest, map: &HeaderMap) {
    if !rest.has_news() {
        return;
    }
    MADE.with_borrow_mut(|made| {
        let made = &mut made[place(shape)];
        if let Some(made) = made
            && made.patience > 0
        {
            made.patience -= 1;
            return;
        }
        if let Some(map) = rest.copy(map) {
            *made = Some(Made {
                shape,
                map,
                patience: PATIENCE,
            });
        }
    });
}

fn place(shape: u32) -> usize {
    shape as usize % MADE_MAX
}

/// Shapes of answers that each worker remembers. Their fields are bounded with the heads that they come in.
const MADE_MAX: usize = 16;
/// A date is another one each second.
const PATIENCE: u32 = 16;
