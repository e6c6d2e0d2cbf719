//! How packets reach local backends: redirected past netfilter, or up the stack and through it. Decided from `--delivery` and from
//! where rules of others are.

/// `--delivery`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Delivery {
    /// Up the stack while rules of others judge forwarded packets, else by redirect.
    #[default]
    Auto,
    /// By redirect: rules for forwarded packets do not see them.
    Redirect,
    /// Up the stack.
    Stack,
}

/// What is in force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    /// Up the stack.
    pub stack: bool,
    /// Why, for people.
    pub why: String,
}

/// Decides. `rules` says where rules of others judge forwarded packets.
pub fn decide(delivery: Delivery, rules: Option<&str>) -> Decision {
    let (stack, why) = match (delivery, rules) {
        (Delivery::Stack, _) => (true, "--delivery asks for it".to_owned()),
        (Delivery::Redirect, None) => (false, "--delivery asks for it".to_owned()),
        (Delivery::Redirect, Some(rules)) => (false, format!("--delivery asks for it; {rules} is passed by")),
        (Delivery::Auto, None) => (false, "auto: no rules for forwarded packets".to_owned()),
        (Delivery::Auto, Some(rules)) => (true, format!("auto: {rules} has rules for forwarded packets")),
    };
    Decision { stack, why }
}

impl Decision {
    /// `stack` or `redirect`.
    pub const fn name(&self) -> &'static str {
        if self.stack { "stack" } else { "redirect" }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn auto_goes_up_the_stack_where_rules_are() {
        let rules = Some("nftables chain inet filter forward");
        let cases = [
            (Delivery::Auto, None, "redirect", "auto: no rules"),
            (Delivery::Auto, rules, "stack", "auto: nftables chain inet filter forward has"),
            (Delivery::Redirect, rules, "redirect", "is passed by"),
            (Delivery::Redirect, None, "redirect", "asks for it"),
            (Delivery::Stack, None, "stack", "asks for it"),
        ];
        for (delivery, rules, name, why) in cases {
            let decision = decide(delivery, rules);
            assert_eq!(decision.name(), name, "{delivery:?} {rules:?}");
            assert!(decision.why.contains(why), "{decision:?}");
        }
    }
}
