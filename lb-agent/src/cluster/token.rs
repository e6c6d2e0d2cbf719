//! Who an agent is: its service account's token, checked by the API server, says on which node its pod runs.

use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec, TokenReviewStatus};
use kube::{
    Api, Client,
    api::{ObjectMeta, PostParams},
};

use super::AUDIENCE;

/// The field of a token's user that names the node of its pod (KEP-4193).
const NODE_NAME: &str = "authentication.kubernetes.io/node-name";

/// Why a token is not accepted.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TokenError {
    /// The API server cannot be asked.
    #[error("the token cannot be checked: {0}")]
    Api(#[source] Box<kube::Error>),
    /// The API server does not know it, or not for us.
    #[error("the token is not valid for audience {AUDIENCE}: {0}")]
    Invalid(String),
    /// It is somebody else's.
    #[error("{user} is not the agents' service account {wanted}")]
    User {
        /// Whose it is.
        user: String,
        /// Whose it should be.
        wanted: String,
    },
    /// It does not say on which node its pod runs.
    #[error("the token names no node: Kubernetes 1.32 or newer is needed, and a token that is bound to a pod")]
    NoNode,
}

/// The node that a token's pod runs on. `account` is the only user that may show one: `system:serviceaccount:NAMESPACE:NAME`.
pub async fn node(client: &Client, token: &str, account: &str) -> Result<String, TokenError> {
    let review = TokenReview {
        metadata: ObjectMeta::default(),
        spec: TokenReviewSpec { audiences: Some(vec![AUDIENCE.into()]), token: token.to_owned() },
        status: None,
    };
    let api: Api<TokenReview> = Api::all(client.clone());
    let answer = api.create(&PostParams::default(), &review).await.map_err(|e| TokenError::Api(Box::new(e)))?;
    judge(answer.status.unwrap_or_default(), account)
}

fn judge(status: TokenReviewStatus, account: &str) -> Result<String, TokenError> {
    if !status.authenticated.unwrap_or(false) || !status.audiences.iter().flatten().any(|a| a == AUDIENCE) {
        return Err(TokenError::Invalid(status.error.unwrap_or_else(|| "refused by the API server".into())));
    }
    let user = status.user.unwrap_or_default();
    let name = user.username.unwrap_or_default();
    if name != account {
        return Err(TokenError::User { user: name, wanted: account.to_owned() });
    }
    let node = user.extra.unwrap_or_default().remove(NODE_NAME).and_then(|mut names| names.pop());
    node.filter(|node| !node.is_empty()).ok_or(TokenError::NoNode)
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::authentication::v1::UserInfo;

    use super::*;

    #[test]
    fn only_the_agents_account_on_a_node_is_accepted() {
        let account = "system:serviceaccount:weir:weir-agent";
        let status = |user: &str, node: Option<&str>, audience: &str| TokenReviewStatus {
            authenticated: Some(true),
            audiences: Some(vec![audience.into()]),
            user: Some(UserInfo {
                username: Some(user.into()),
                extra: node.map(|node| [(NODE_NAME.to_owned(), vec![node.to_owned()])].into()),
                ..UserInfo::default()
            }),
            ..TokenReviewStatus::default()
        };
        assert_eq!(judge(status(account, Some("a"), AUDIENCE), account).unwrap(), "a");
        assert!(matches!(judge(status(account, None, AUDIENCE), account), Err(TokenError::NoNode)));
        assert!(matches!(judge(status(account, Some("a"), "other"), account), Err(TokenError::Invalid(_))));
        assert!(matches!(judge(status("x", Some("a"), AUDIENCE), account), Err(TokenError::User { .. })));
        let refused = TokenReviewStatus { authenticated: Some(false), ..status(account, Some("a"), AUDIENCE) };
        assert!(matches!(judge(refused, account), Err(TokenError::Invalid(_))));
    }
}
