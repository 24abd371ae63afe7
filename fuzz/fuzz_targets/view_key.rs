//! The parser of a view's row keys: whatever the bytes, it answers with a key or with none, and a key that it accepts
//! has exactly these bytes.
#![no_main]

use libfuzzer_sys::fuzz_target;
use odgm_projections::keys::Key;

fuzz_target!(|data: &[u8]| {
    if let Some(key) = Key::parse(data) {
        assert_eq!(key.to_vec(), data, "{key:?} was made from other bytes");
    }
});
