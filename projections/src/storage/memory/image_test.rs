#![allow(clippy::unwrap_used, reason = "a step that fails is a test that fails")]

use std::fmt::Write as _;

use super::*;

fn row(key: &'static [u8], value: &'static [u8]) -> Row {
    (Bytes::from_static(key), Bytes::from_static(value))
}

/// These bytes are on disks: if they change, raise the format and keep reading the old one.
#[test]
fn the_layout_is_fixed() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(FILE);
    let rows = vec![row(b"", b"empty key"), row(b"key", b"value"), row(b"z\xff", b"")];
    write(&path, &Tree::from_sorted(rows.clone())).unwrap();
    assert_eq!(read(&path).unwrap(), rows);

    let mut dump = String::new();
    for line in fs::read(&path).unwrap().chunks(16) {
        let hex: Vec<String> = line.iter().map(|byte| format!("{byte:02x}")).collect();
        let text: String =
            line.iter().map(|&byte| if byte.is_ascii_graphic() { char::from(byte) } else { '.' }).collect();
        writeln!(dump, "{:47}  {text}", hex.join(" ")).unwrap();
    }
    insta::assert_snapshot!(dump, @r"
    4f 44 47 4d 52 4f 57 53 01 00 00 00 03 00 00 00  ODGMROWS........
    00 00 00 00 00 00 00 00 09 00 00 00 65 6d 70 74  ............empt
    79 20 6b 65 79 03 00 00 00 05 00 00 00 6b 65 79  y.key........key
    76 61 6c 75 65 02 00 00 00 00 00 00 00 7a ff 0b  value........z..
    c6 55 f4                                         .U.
    ");
}

/// With a right checksum, so that only the parser stands between the bytes and the rows.
#[test]
fn bytes_that_are_no_image_are_refused() {
    let image = |magic: &[u8], format: u32, rows: u64, body: &[u8]| {
        let mut bytes = [magic, &format.to_le_bytes(), &rows.to_le_bytes(), body].concat();
        bytes.extend(crc32c::crc32c(&bytes).to_le_bytes());
        parse(Bytes::from(bytes)).unwrap_err()
    };
    let a = &[1, 0, 0, 0, 0, 0, 0, 0, b'a'][..];
    let huge = &[0xff; 8][..];
    let errors = [
        parse(Bytes::from_static(b"short")).unwrap_err(),
        image(b"ODGMROWX", 1, 0, b""),
        image(MAGIC, 2, 0, b""),
        image(MAGIC, 1, u64::MAX, a),
        image(MAGIC, 1, 1, huge),
        image(MAGIC, 1, 1, &a[..8]),
        image(MAGIC, 1, 2, &[a, a].concat()),
        image(MAGIC, 1, 1, &[a, a].concat()),
    ];
    insta::assert_snapshot!(errors.join("\n"), @r"
    it has 5 bytes, the smallest image has 24
    it does not begin with ODGMROWS
    its format is 2, this build reads 1
    it ends within row 1 of 18446744073709551615
    it ends within row 0 of 1
    it ends within row 0 of 1
    the key of row 1 is not above the one before
    9 bytes follow the last row
    ");
}
