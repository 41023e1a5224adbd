//! The properties that fuzz targets (fuzz/) call, of rooms that are private otherwise. Compiled only with `--cfg fuzzing`, which cargo-fuzz sets.

/// A name for each fuzz target, and the property that it feeds with bytes.
macro_rules! properties {
    ($($name:ident => $property:path,)*) => {
        $(
            /// See the property of this name.
            pub fn $name(data: &[u8]) {
                let _ = $property(data);
            }
        )*
    };
}

properties! {
    access_log => crate::access_log::properties::any_entry_is_one_json_line,
    admin_request => crate::store::properties::admin_requests,
    answer => crate::upstream::properties::answers,
    backend => crate::upstream::http1::properties::answers,
    client => crate::edge::properties::requests,
    config => crate::config::properties::texts,
    config_words => crate::config::properties::words,
    counters => crate::quota::properties::restored_counters,
    credential => crate::gate::properties::credentials,
    csv_file => crate::cli::properties::files,
    csv_records => crate::cli::properties::records,
    frames => crate::edge::properties::frames,
    host => crate::gate::properties::hosts,
    key_set => crate::token::properties::key_sets,
    key_text => crate::model::properties::key_texts,
    rate => crate::model::properties::rates,
    reference => crate::upstream::properties::references,
    request => crate::upstream::properties::requests,
    route => crate::model::properties::routes,
    token => crate::token::properties::tokens,
}
