//! What must hold of any text as a gateway.toml and of its words: fuzz targets and proptests call the same functions.

use std::path::Path;

use crate::config;
use crate::config::values;

/// Whatever the text: no panic; a refusal names a line for each problem and can be printed; what is taken is written back to the same.
pub(crate) fn texts(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    match config::parse(text, Path::new("gateway.toml")) {
        Ok(loaded) => {
            let dump = loaded.config.dump();
            let again = config::parse(&dump, Path::new("gateway.toml"));
            let again = again.unwrap_or_else(|problems| {
                panic!("a dump is refused: {}\n{dump}", problems.render(false))
            });
            assert_eq!(again.config.dump(), dump);
        }
        Err(problems) => {
            assert!(!problems.is_empty());
            let _ = (problems.render(false), problems.render(true));
            for line in problems.lines() {
                assert!(line.starts_with("gateway.toml:"), "{line}");
                assert_eq!(line.lines().count(), 1, "{line:?}");
            }
        }
    }
}

/// Durations, sizes, dates, digests and counts: read back as they are written, or refused with the way out.
pub(crate) fn words(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    match values::duration(text) {
        Ok(span) => assert_eq!(values::duration(&values::show_duration(span)), Ok(span)),
        Err(wrong) => assert!(!wrong.help.is_empty()),
    }
    match values::size(text) {
        Ok(u64::MAX) => {}
        Ok(bytes) => assert_eq!(values::size(&values::show_size(bytes)), Ok(bytes)),
        Err(wrong) => assert!(!wrong.help.is_empty()),
    }
    if let Err(wrong) = values::digest(text) {
        assert!(text.len() < 16 || !format!("{wrong:?}").contains(text));
    }
    if let Err(wrong) = values::expiry(text) {
        assert!(!wrong.help.is_empty());
    }
    let _ = values::bounded(text, ("1s", "1h"), values::duration);
    let _ = values::nearest(text, &["plans", "tenants", ""]);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Lines of a good file, and edits that leave most of it standing.
    fn file() -> impl Strategy<Value = String> {
        let reference = include_str!("../../gateway.toml");
        let extra = "[plans.free]\nquota = \"100/hour\"\nburst = \"20/min\"\nscopes = [\"*\"]\n[upstreams.u]\nservers = [\"http://127.0.0.1:1\"]\n[[routes]]\npath = \"/a\"\naccess = \"public\"\nupstream = \"u\"\n";
        let lines: Vec<String> = reference
            .lines()
            .filter(|line| !line.starts_with('#') && !line.trim().is_empty())
            .chain(extra.lines())
            .map(str::to_owned)
            .collect();
        let count = lines.len();
        let value = prop_oneof![
            "= \"[a-z0-9/:.*{}_-]{0,12}\"",
            "= [0-9]{1,20}",
            "= \\[(\"[a-zA-Z0-9:/.]{0,9}\",?){0,3}\\]",
            "= (true|false|nan|1e9|1979-05-27|\\{\\})",
            "\\PC{0,8}",
        ];
        prop::collection::vec((0..count, value), 0..4).prop_map(move |edits| {
            let mut lines = lines.clone();
            for (at, value) in edits {
                let name = lines[at].split('=').next().unwrap_or("").to_owned();
                lines[at] = format!("{name}{value}");
            }
            lines.join("\n")
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(192))]

        #[test]
        fn a_text_is_refused_with_its_line_or_written_back_the_same(text in file()) {
            texts(text.as_bytes());
        }
    }

    // Found by the property: such a value took as many lines in the log as it had itself.
    #[test]
    fn a_value_over_several_lines_is_told_in_one() {
        texts(b"[listen]\nhttps = [\"\"\"\nx\ny\"\"\"]\n");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2_048))]

        #[test]
        fn words_read_back(text in "[0-9]{0,22}(ms|s|min|h|B|KiB|MiB|GiB|k|M|)|sha256:[0-9a-f]{62,66}|[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9:]{8}(Z|\\+01:00)|\\PC{0,9}") {
            words(text.as_bytes());
        }
    }
}
