//! What is looked for in the text of a template, beside what handlebars checks.

/// The values that a template asks for with `if` and `unless`, and their lines.
pub(super) fn conditions(source: &str) -> impl Iterator<Item = (usize, &str)> {
    source.match_indices("{{").filter_map(|(offset, _)| {
        let inside = source[offset..].trim_start_matches(['{', '~']).trim_start();
        let asked = ["#if ", "#unless ", "else if ", "else unless "]
            .iter()
            .find_map(|word| inside.strip_prefix(word))?;
        let name = asked
            .trim_start()
            .split(|c: char| !(c.is_alphanumeric() || c == '_'))
            .next()?;
        // What is not a plain name, `@last` for one, is handlebars' own.
        (!name.is_empty()).then(|| (source[..offset].matches('\n').count() + 1, name))
    })
}

/// Whether a template may have made a name itself: the item of an `each`, a block's parameter, a partial's argument.
pub(super) fn is_named_within(source: &str, name: &str) -> bool {
    let is_parameter = |block: &str| {
        let parameters = block.split('|').next().unwrap_or_default();
        parameters.split_whitespace().any(|parameter| parameter == name)
    };
    name == "this" || source.contains(&format!("{name}=")) || source.split("as |").skip(1).any(is_parameter)
}

/// The line of the first expression that handlebars would print unescaped. It looks at comments as well, which is the
/// safe way to be wrong.
pub(super) fn first_unescaped(source: &str) -> Option<usize> {
    let mut offset = 0;
    while let Some(found) = source[offset..].find("{{") {
        offset += found + "{{".len();
        // Handlebars allows `{{~{`, `{{ &` and the like.
        let inside = source[offset..].trim_start_matches(|c: char| c == '~' || c.is_whitespace());
        if inside.starts_with(['{', '&']) {
            return Some(source[..offset].lines().count());
        }
    }
    None
}
