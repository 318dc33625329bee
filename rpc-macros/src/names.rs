//! Names on the wire.

/// The default wire name of a trait: `HTTPProxy` is `http_proxy`.
pub(crate) fn snake_case(name: &str) -> String {
    let mut snake = String::with_capacity(name.len() + 4);
    let mut previous = '_';
    let mut chars = name.chars().peekable();
    while let Some(c) = chars.next() {
        if c.is_uppercase() {
            let ends_word = previous.is_lowercase() || previous.is_numeric();
            // Of the capitals in `HTTPProxy`, the last one begins the second word.
            let ends_acronym = previous.is_uppercase() && chars.peek().is_some_and(|next| next.is_lowercase());
            if ends_word || ends_acronym {
                snake.push('_');
            }
            snake.extend(c.to_lowercase());
        } else {
            snake.push(c);
        }
        previous = c;
    }
    snake
}

/// Whether `name` can be the wire name of a service: segments between dots.
pub(crate) fn is_service_name(name: &str) -> bool {
    name.split('.').all(is_method_name)
}

/// Whether `name` can be the wire name of a method.
pub(crate) fn is_method_name(name: &str) -> bool {
    !name.is_empty()
        && name
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_parted_as_people_read_them() {
        for (name, snake) in [
            ("Calculator", "calculator"),
            ("KeyValueStore", "key_value_store"),
            ("HTTPProxy", "http_proxy"),
            ("ProxyHTTP", "proxy_http"),
            ("Calc2", "calc2"),
            ("Http2Server", "http2_server"),
            ("V2API", "v2_api"),
            ("A", "a"),
            ("Already_Snake", "already_snake"),
            ("_Hidden", "_hidden"),
        ] {
            assert_eq!(snake_case(name), snake);
        }
    }

    #[test]
    fn wire_names_are_plain() {
        assert!(is_service_name("calc") && is_service_name("acme.calc-2") && is_service_name("a_b"));
        for name in ["", ".", "a.", ".a", "a..b", "a b", "a/b", "größe"] {
            assert!(!is_service_name(name), "{name}");
        }
        assert!(is_method_name("add-all_2"));
        assert!(!is_method_name("calc.add") && !is_method_name(""));
    }
}
