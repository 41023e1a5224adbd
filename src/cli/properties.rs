//! What must hold of any text as an import file: fuzz target and proptest call the same functions.

use crate::cli::import;
use crate::cli::import::Records;

/// Whatever the text: no panic, and no refusal repeats a word that could be a key.
pub(crate) fn files(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    match import::rows("keys.csv", text) {
        Ok(keys) => {
            let lines = 1 + text.matches('\n').count() as u64;
            for key in &keys {
                assert!((2..=lines).contains(&key.line));
                assert!(!key.key.tenant.is_empty() && !key.key.name.is_empty());
                assert!(!format!("{key:?}").contains("KeyText(\""));
            }
            assert!(keys.is_sorted_by(|one, other| one.line < other.line));
        }
        Err(error) => {
            let words = text.split(|letter: char| !letter.is_ascii_alphanumeric());
            for word in words.filter(|word| word.len() >= 16) {
                assert!(!error.text.contains(word), "{word}: {}", error.text);
            }
        }
    }
}

/// Records that were written with every field in quotes (RFC 4180) are read as they were.
pub(crate) fn records(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let given: Vec<Vec<String>> = text
        .split('\u{1e}')
        .map(|record| record.split('\u{1f}').map(str::to_owned).collect())
        .collect();
    let written: String = given
        .iter()
        .map(|record| {
            let fields: Vec<String> = record
                .iter()
                .map(|field| format!("\"{}\"", field.replace('"', "\"\"")))
                .collect();
            format!("{}\r\n", fields.join(","))
        })
        .collect();
    let read: Vec<Vec<String>> = Records {
        rest: &written,
        line: 1,
    }
    .map(|(_, fields)| fields.expect("what is quoted whole makes sense"))
    .collect();
    // Line ends within a field may become plain, and records without a word are no rows.
    let expected: Vec<Vec<String>> = given
        .into_iter()
        .map(|record| {
            let plain = |field: String| field.replace("\r\n", "\n");
            record.into_iter().map(plain).collect::<Vec<String>>()
        })
        .filter(|record| record.iter().any(|field| !field.trim().is_empty()))
        .collect();
    assert_eq!(read, expected);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2_048))]

        #[test]
        fn no_refusal_repeats_what_could_be_a_key(
            heading in "name,tenant,value|tenant,name,sha256,expires|name,tenant,value,scopes,note|[a-z,]{0,20}",
            rows in prop::collection::vec("(([a-z]{0,3}|\"[a-z, \r\n]{0,6}\"|fp_live_[0-9A-Za-z]{36}|\"?[0-9a-zA-Z]{20}\"{0,2}),?){0,6}", 0..5),
        ) {
            files(format!("{heading}\n{}", rows.join("\n")).as_bytes());
        }

        #[test]
        fn quoted_records_read_back(text in "([a-c\", \r\n\u{1e}\u{1f}é]){0,30}") {
            records(text.as_bytes());
        }
    }
}
