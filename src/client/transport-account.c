/* The account as the transport needs it: copied, checked, with defaults. Called by transport_new() and transport_free(). */

#include <arpa/inet.h>
#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "transport-private.h"

#define DEFAULT_TIMEOUT (30 * 1000)
/* a day: what is longer does not fit into all of libcurl's options */
#define MAX_TIMEOUT (24 * 3600 * 1000)
#define PORT_IMAP 143
#define PORT_IMAPS 993

void secret_free(char *secret)
{
	if (secret == NULL)
		return;
	explicit_bzero(secret, strlen(secret));
	free(secret);
}

void account_wipe(struct dovetail_account *account)
{
	free((char *)account->host);
	free((char *)account->user);
	/* commands may name what they should not, and proxies have passwords */
	secret_free((char *)account->token_command);
	secret_free((char *)account->password_command);
	secret_free((char *)account->password);
	free((char *)account->netrc);
	free((char *)account->mechanism);
	secret_free((char *)account->proxy);
	free((char *)account->ca_file);
	memset(account, 0, sizeof(*account));
}

/* A string of the account, NULL kept. false: out of memory. */
static bool copy(const char *from, const char **to)
{
	if (from == NULL)
		return true;
	*to = strdup(from);
	return *to != NULL;
}

static bool copy_all(const struct dovetail_account *from, struct dovetail_account *to)
{
	return copy(from->host, &to->host) && copy(from->user, &to->user) &&
		copy(from->token_command, &to->token_command) &&
		copy(from->password_command, &to->password_command) &&
		copy(from->password, &to->password) && copy(from->netrc, &to->netrc) &&
		copy(from->mechanism, &to->mechanism) && copy(from->proxy, &to->proxy) &&
		copy(from->ca_file, &to->ca_file);
}

static bool has_control(const char *text)
{
	for (; *text != '\0'; text++) {
		if (iscntrl((unsigned char)*text))
			return true;
	}
	return false;
}

/* A name or an address, with nothing that means something else in a URL. */
static bool is_host(const char *host)
{
	char address[INET6_ADDRSTRLEN];
	struct in6_addr in6;
	size_t length = strcspn(host, "%");

	if (has_control(host) || strpbrk(host, " /?#@[]\\\"<>^`{|}") != NULL)
		return false;
	if (strchr(host, ':') == NULL)
		return host[length] == '\0';
	/* IPv6, perhaps with a zone after '%' */
	if (length >= sizeof(address))
		return false;
	memcpy(address, host, length);
	address[length] = '\0';
	return inet_pton(AF_INET6, address, &in6) == 1;
}

static bool is_bearer(const char *mechanism)
{
	return strcasecmp(mechanism, "OAUTHBEARER") == 0 || strcasecmp(mechanism, "XOAUTH2") == 0;
}

static const char *check_login(const struct dovetail_account *account)
{
	const char *mechanism = account->mechanism;

	if (account->user == NULL || *account->user == '\0')
		return "no user is given";
	if (has_control(account->user))
		return "the user's name has control characters";
	if (account->password != NULL && strpbrk(account->password, "\r\n") != NULL)
		return "the password has more than one line";
	if (mechanism != NULL) {
		if (*mechanism == '\0' || strspn(mechanism, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_") !=
		    strlen(mechanism))
			return "the mechanism is not a name of a SASL mechanism";
		if (is_bearer(mechanism) && account->token_command == NULL)
			return "the mechanism needs a token command";
	}
	if (account->token_command == NULL && account->password_command == NULL && account->password == NULL &&
	    account->netrc == NULL && (mechanism == NULL || strcasecmp(mechanism, "GSSAPI") != 0))
		return "neither a password, a command for one, a netrc file nor a token command is given";
	return NULL;
}

/* The proxy's scheme is one that libcurl knows; a wrong one would be told only when connecting. */
static const char *check_proxy(const char *proxy)
{
	static const char *const schemes[] = { "socks4", "socks4a", "socks5", "socks5h", "http", "https" };
	CURLU *url;
	char *scheme = NULL;
	const char *error = "the proxy is not a URL of scheme socks5h, socks5, socks4a, socks4, http or https";
	unsigned int i;

	if (proxy == NULL || *proxy == '\0')
		return NULL;
	url = curl_url();
	if (url != NULL && curl_url_set(url, CURLUPART_URL, proxy, CURLU_NON_SUPPORT_SCHEME) == CURLUE_OK &&
	    curl_url_get(url, CURLUPART_SCHEME, &scheme, 0) == CURLUE_OK) {
		for (i = 0; i < sizeof(schemes) / sizeof(schemes[0]); i++) {
			if (strcasecmp(scheme, schemes[i]) == 0)
				error = NULL;
		}
	}
	curl_free(scheme);
	curl_url_cleanup(url);
	return error;
}

static const char *check(const struct dovetail_account *account)
{
	const char *error;

	if (account->host == NULL || *account->host == '\0')
		return "no host is given";
	if (!is_host(account->host))
		return "the host is neither a name nor an address";
	if ((error = check_login(account)) != NULL)
		return error;
	if ((unsigned int)account->tls > DOVETAIL_TLS_NONE)
		return "the kind of TLS is none of enum dovetail_tls";
	return check_proxy(account->proxy);
}

enum dovetail_status
account_copy(const struct dovetail_account *account, struct dovetail_account *account_r, char **error_r)
{
	const char *error = check(account);
	char *p;

	*error_r = NULL;
	if (error != NULL) {
		*error_r = strdup(error);
		return DOVETAIL_INVALID;
	}
	*account_r = (struct dovetail_account){
		.port = account->port, .tls = account->tls, .insecure = account->insecure, .timeout = account->timeout
	};
	if (account_r->tls == DOVETAIL_TLS_DEFAULT)
		account_r->tls = account->port == PORT_IMAP ? DOVETAIL_TLS_STARTTLS : DOVETAIL_TLS_IMAPS;
	if (account_r->port == 0)
		account_r->port = account_r->tls == DOVETAIL_TLS_IMAPS ? PORT_IMAPS : PORT_IMAP;
	if (account_r->timeout == 0)
		account_r->timeout = DEFAULT_TIMEOUT;
	if (account_r->timeout > MAX_TIMEOUT)
		account_r->timeout = MAX_TIMEOUT;
	if (!copy_all(account, account_r)) {
		account_wipe(account_r);
		return DOVETAIL_SYSTEM;
	}
	/* as RFC 4422 has them, and libcurl wants them */
	for (p = (char *)account_r->mechanism; p != NULL && *p != '\0'; p++)
		*p = toupper((unsigned char)*p);
	return DOVETAIL_OK;
}
