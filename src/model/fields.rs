//! The fields of an answer, put one after the other over a copy of those of an answer like it.
//!
//! Most answers say the same under the same names in the same order. To copy such a map and to change what is new costs less than to find a place for each
//! field in an empty one.

use std::fmt;

use http::HeaderMap;
use http::HeaderName;
use http::HeaderValue;
use http::header::DATE;
use http::header::IterMut;

/// The fields of an answer on their way into a map. As long as each has the name of the next one there, it takes its place; what comes from the first other
/// one on is gathered, and `Rest::settle` makes a map of all.
pub struct Fields<'a> {
    next: IterMut<'a, HeaderValue>,
    rest: Rest,
    dates_stay: bool,
}

/// What was found out about a map by putting an answer's fields over it.
#[derive(Debug, Default)]
pub struct Rest {
    /// How many fields of the map are the answer's.
    alike: usize,
    /// What comes behind them.
    others: Vec<(HeaderName, HeaderValue)>,
    differs: bool,
    /// A bit for each of the first fields whose value is likely to come again.
    stays: u64,
    /// One of these says something else than in the map.
    is_new: bool,
}

impl fmt::Debug for Fields<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.rest.fmt(out)
    }
}

impl<'a> Fields<'a> {
    /// Over this map, where no name stands twice. `dates_stay` says whether a date is worth a place in HTTP/2's compression table, or is marked as sensitive.
    pub fn over(map: &'a mut HeaderMap, dates_stay: bool) -> Fields<'a> {
        Fields {
            next: map.iter_mut(),
            rest: Rest::default(),
            dates_stay,
        }
    }

    /// Puts a field whose value is another one each time.
    pub fn put(&mut self, name: &'static HeaderName, value: HeaderValue) {
        match self.place(|made| is_same(made, name)) {
            Some(place) => *place = value,
            None => self.rest.others.push((name.clone(), value)),
        }
    }

    /// Puts a field whose value is nearly always the same, and nobody's own.
    pub fn keep(&mut self, name: &'static HeaderName, value: &HeaderValue) {
        let make = || Some((name.clone(), value.clone()));
        self.keep_where(|made| is_same(made, name), value.as_bytes(), make);
    }

    /// Puts the date.
    pub fn date(&mut self, value: &HeaderValue) {
        let make = || Some((DATE, value.clone()));
        self.keep_date(value.as_bytes(), make);
    }

    /// The same as `put` for a name in small letters; `make` makes a field of it.
    ///
    /// # Errors
    /// `None` where that cannot be done.
    pub fn put_line(
        &mut self,
        name: &[u8],
        make: impl FnOnce() -> Option<(HeaderName, HeaderValue)>,
    ) -> Option<()> {
        let place = self.place(|made| made.as_str().as_bytes() == name);
        let made = make()?;
        match place {
            Some(place) => *place = made.1,
            None => self.rest.others.push(made),
        }
        Some(())
    }

    /// The same as `keep`; only what is new is made.
    ///
    /// # Errors
    /// `None` where that cannot be done.
    pub fn keep_line(
        &mut self,
        name: &[u8],
        value: &[u8],
        make: impl FnOnce() -> Option<(HeaderName, HeaderValue)>,
    ) -> Option<()> {
        self.keep_where(|made| made.as_str().as_bytes() == name, value, make)?;
        Some(())
    }

    /// The same as `date`; only what is new is made.
    ///
    /// # Errors
    /// `None` where that cannot be done.
    pub fn keep_date(
        &mut self,
        value: &[u8],
        make: impl FnOnce() -> Option<(HeaderName, HeaderValue)>,
    ) -> Option<()> {
        let is_marked = !self.dates_stay;
        let place = self.keep_where(|made| *made == DATE, value, make)?;
        place.set_sensitive(is_marked);
        Some(())
    }

    /// All have been put.
    #[must_use]
    pub fn rest(mut self) -> Rest {
        self.rest.differs |= self.next.next().is_some();
        self.rest
    }

    fn keep_where(
        &mut self,
        is_same: impl FnOnce(&HeaderName) -> bool,
        value: &[u8],
        make: impl FnOnce() -> Option<(HeaderName, HeaderValue)>,
    ) -> Option<&mut HeaderValue> {
        self.rest.stays();
        let Some(place) = self.place(is_same) else {
            let others = &mut self.rest.others;
            others.push(make()?);
            return others.last_mut().map(|(_, value)| value);
        };
        if place.as_bytes() != value {
            *place = make()?.1;
            self.rest.is_new = true;
        }
        Some(place)
    }

    /// Where the next field goes, if the one there has its name.
    fn place(&mut self, is_same: impl FnOnce(&HeaderName) -> bool) -> Option<&'a mut HeaderValue> {
        if !self.rest.differs {
            match self.next.next() {
                Some((name, place)) if is_same(name) => {
                    self.rest.alike += 1;
                    return Some(place);
                }
                _ => self.rest.differs = true,
            }
        }
        None
    }
}

impl Rest {
    /// Makes it the map of all that was put, in that order.
    pub fn settle(&mut self, map: &mut HeaderMap) {
        if !self.differs {
            return;
        }
        let made = std::mem::take(map);
        map.reserve(self.alike + self.others.len());
        for (name, value) in made.into_iter().take(self.alike) {
            if let Some(name) = name {
                map.append(name, value);
            }
        }
        for (name, value) in self.others.drain(..) {
            map.append(name, value);
        }
    }

    /// Whether a copy made of this answer's map would serve the next one better.
    #[must_use]
    pub fn has_news(&self) -> bool {
        self.differs || self.is_new
    }

    /// A copy of the settled map for answers like this one, without the values that are other ones each time; `None` where no other answer can be put over it.
    #[must_use]
    pub fn copy(&self, map: &HeaderMap) -> Option<HeaderMap> {
        if map.len() != map.keys_len() || map.len() > FIELDS_MAX {
            return None;
        }
        let mut copy = HeaderMap::with_capacity(map.len());
        for (at, (name, value)) in map.iter().enumerate() {
            let value = match self.stays & (1 << at) {
                0 => HeaderValue::from_static(""),
                _ => value.clone(),
            };
            copy.append(name, value);
        }
        Some(copy)
    }

    /// Notes it of the field that comes next.
    fn stays(&mut self) {
        let at = self.alike + self.others.len();
        if at < FIELDS_MAX {
            self.stays |= 1 << at;
        }
    }
}

/// Whether the names are the same; nearly always they stand in the same place.
fn is_same(made: &HeaderName, name: &'static HeaderName) -> bool {
    let (made, name) = (made.as_str(), name.as_str());
    std::ptr::eq(made, name) || made == name
}

/// More than these are not copied; a bit for each has room in a word.
const FIELDS_MAX: usize = 64;

#[cfg(test)]
mod tests {
    use http::HeaderMap;
    use http::HeaderName;
    use http::HeaderValue;
    use http::header;
    use proptest::prelude::*;

    use super::Fields;
    use super::Rest;

    static OWN: HeaderName = HeaderName::from_static("x-own");
    static FIXED: HeaderName = HeaderName::from_static("x-fixed");

    /// How a field is put.
    #[derive(Clone, Copy, Debug)]
    enum How {
        Put,
        Keep,
        Line,
        KeptLine,
        Date,
    }

    type Said = (How, &'static str, String);

    fn put(fields: &mut Fields<'_>, (how, name, value): &Said) {
        let read = HeaderValue::from_str(value).unwrap();
        let make = || Some((HeaderName::from_static(name), read.clone()));
        match how {
            How::Put => fields.put(&OWN, read.clone()),
            How::Keep => fields.keep(&FIXED, &read),
            How::Line => fields.put_line(name.as_bytes(), make).unwrap(),
            How::KeptLine => {
                let value = value.as_bytes();
                fields.keep_line(name.as_bytes(), value, make).unwrap();
            }
            How::Date => fields.keep_date(value.as_bytes(), make).unwrap(),
        }
    }

    fn over(made: Option<&HeaderMap>, said: &[Said]) -> (HeaderMap, Rest) {
        let mut map = made.cloned().unwrap_or_default();
        let mut fields = Fields::over(&mut map, true);
        for said in said {
            put(&mut fields, said);
        }
        let mut rest = fields.rest();
        rest.settle(&mut map);
        (map, rest)
    }

    fn appended(said: &[Said]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (_, name, value) in said {
            map.append(*name, HeaderValue::from_str(value).unwrap());
        }
        map
    }

    fn listed(map: &HeaderMap) -> Vec<(&str, &[u8])> {
        map.iter()
            .map(|(name, value)| (name.as_str(), value.as_bytes()))
            .collect()
    }

    fn said() -> impl Strategy<Value = Vec<Said>> {
        let field = prop::sample::select(vec![
            (How::Put, "x-own"),
            (How::Keep, "x-fixed"),
            (How::Line, "etag"),
            (How::Line, "x-other"),
            (How::Line, "set-cookie"),
            (How::KeptLine, "server"),
            (How::KeptLine, "content-type"),
            (How::Date, "date"),
        ]);
        let value = prop::sample::select(vec!["", "1", "2", "three"]);
        let said = (field, value).prop_map(|((how, name), value)| (how, name, value.to_owned()));
        prop::collection::vec(said, 0..10)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2_000))]

        /// Whatever the answer before said, the map says what was put and nothing else, in that order.
        #[test]
        fn a_map_over_another_says_what_one_of_its_own_says(answers in prop::collection::vec(said(), 1..4)) {
            let mut made: Option<HeaderMap> = None;
            for said in &answers {
                let (map, rest) = over(made.as_ref(), said);
                let expected = appended(said);
                prop_assert_eq!(listed(&map), listed(&expected));
                for (name, value) in &expected {
                    prop_assert!(map.get_all(name).iter().any(|same| same == value), "found by name");
                }
                if let Some(copy) = rest.copy(&map) {
                    made = Some(copy);
                }
            }
        }
    }

    fn answer(date: &str, own: &str) -> Vec<Said> {
        vec![
            (How::KeptLine, "server", "x".to_owned()),
            (How::Date, "date", date.to_owned()),
            (How::Line, "etag", own.to_owned()),
            (How::Put, "x-own", own.to_owned()),
            (How::Keep, "x-fixed", "same".to_owned()),
        ]
    }

    #[test]
    fn what_comes_again_is_news_only_once() {
        let (map, rest) = over(None, &answer("today", "1"));
        assert!(rest.has_news());
        let copy = rest.copy(&map).unwrap();
        assert_eq!(copy["server"], "x");
        assert_eq!(
            (&copy["etag"], &copy["x-own"]),
            (&HeaderValue::from_static(""), &HeaderValue::from_static("")),
            "nobody's value is kept"
        );
        let (_, rest) = over(Some(&copy), &answer("today", "2"));
        assert!(!rest.has_news());
        let (_, rest) = over(Some(&copy), &answer("tomorrow", "2"));
        assert!(rest.has_news());
        let (_, rest) = over(Some(&copy), &answer("today", "2")[..4]);
        assert!(rest.has_news(), "the last is missing");
    }

    #[test]
    fn a_date_is_marked_as_it_is_asked_for_now() {
        for dates_stay in [true, false, true] {
            let (mut map, _) = over(None, &answer("today", "1"));
            let mut fields = Fields::over(&mut map, dates_stay);
            for said in &answer("today", "1") {
                put(&mut fields, said);
            }
            fields.rest().settle(&mut map);
            assert_eq!(map[header::DATE].is_sensitive(), !dates_stay);
        }
    }

    #[test]
    fn of_names_that_stand_twice_no_copy_is_made() {
        let twice = vec![(How::Line, "set-cookie", "a".to_owned()); 2];
        let (map, rest) = over(None, &twice);
        assert_eq!(map.len(), 2);
        assert!(rest.copy(&map).is_none());
    }
}
