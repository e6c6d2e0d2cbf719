//! Which Services of a cluster are ours: all, or those whose users chose us.

use std::collections::BTreeMap;

/// Kubernetes' label that gives a Service to another proxy than the cluster's.
pub const PROXY_NAME: &str = "service.kubernetes.io/service-proxy-name";
/// Kubernetes' label of Services and slices that no proxy serves.
pub const HEADLESS: &str = "service.kubernetes.io/headless";
/// Our name in [`PROXY_NAME`].
pub const OUR_NAME: &str = "weir";

/// `--services`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Services {
    /// All but those with another proxy's name: Weir replaces kube-proxy
    #[default]
    All,
    /// Those labelled service.kubernetes.io/service-proxy-name=weir: kube-proxy leaves them alone
    Labelled,
}

/// Whether a Service, or a slice, with these labels is for us. A slice has the labels of its Service, but for those that the
/// EndpointSlice controller keeps to itself: of slices ask only with [`Services::All`].
pub fn is_ours(labels: Option<&BTreeMap<String, String>>, services: Services) -> bool {
    let label = |name: &str| labels.and_then(|labels| labels.get(name)).map(String::as_str);
    let chosen = match label(PROXY_NAME) {
        None => services == Services::All,
        Some(name) => name == OUR_NAME,
    };
    chosen && label(HEADLESS).is_none()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_ours() {
        type Case = (&'static [(&'static str, &'static str)], bool, bool);
        let cases: [Case; 6] = [
            (&[], true, false),
            (&[("app", "web")], true, false),
            (&[(PROXY_NAME, "weir")], true, true),
            (&[(PROXY_NAME, "cilium")], false, false),
            (&[(PROXY_NAME, "")], false, false),
            (&[(PROXY_NAME, "weir"), (HEADLESS, "")], false, false),
        ];
        for (labels, all, labelled) in cases {
            let labels = labels.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
            let found = (is_ours(Some(&labels), Services::All), is_ours(Some(&labels), Services::Labelled));
            assert_eq!(found, (all, labelled), "{labels:?}");
        }
        assert!(is_ours(None, Services::All) && !is_ours(None, Services::Labelled));
    }
}
