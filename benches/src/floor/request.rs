//! Commands in the form in which Redis reads them.

/// Appends one command.
pub(super) fn command(out: &mut Vec<u8>, arguments: &[&[u8]]) {
    begin(out, arguments.len());
    for argument in arguments {
        bulk(out, &[argument]);
    }
}

/// Appends an XADD of one entry with one field, whose value consists of `parts`.
pub(super) fn add(out: &mut Vec<u8>, stream: &[u8], parts: &[&[u8]]) {
    begin(out, 5);
    for argument in [b"XADD", stream, b"*", b"d"] {
        bulk(out, &[argument]);
    }
    bulk(out, parts);
}

/// Appends an XTRIM of what stands before `id`.
pub(super) fn trim(out: &mut Vec<u8>, stream: &[u8], id: &[u8]) {
    command(out, &[b"XTRIM", stream, b"MINID", b"~", id]);
}

fn begin(out: &mut Vec<u8>, arguments: usize) {
    number(out, b'*', arguments);
}

fn bulk(out: &mut Vec<u8>, parts: &[&[u8]]) {
    number(out, b'$', parts.iter().map(|part| part.len()).sum());
    for part in parts {
        out.extend_from_slice(part);
    }
    out.extend_from_slice(b"\r\n");
}

fn number(out: &mut Vec<u8>, kind: u8, n: usize) {
    out.push(kind);
    out.extend_from_slice(itoa::Buffer::new().format(n).as_bytes());
    out.extend_from_slice(b"\r\n");
}
