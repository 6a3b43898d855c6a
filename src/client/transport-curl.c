/* What libcurl is told, and what its results mean. libcurl connects and logs in (CURLOPT_CONNECT_ONLY) and then only carries
   octets. Called by transport.c. */

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include "transport-private.h"

/* Without a mechanism in the account. Not GSSAPI, which libcurl prefers for users with an '@', and where it gives up without a
   ticket; not NTLM.

    */
#define PASSWORD_MECHANISMS "AUTH=SCRAM-SHA-256;AUTH=SCRAM-SHA-1;AUTH=CRAM-MD5;AUTH=DIGEST-MD5;AUTH=PLAIN;AUTH=LOGIN"
#define TOKEN_MECHANISMS "AUTH=OAUTHBEARER;AUTH=XOAUTH2"

/* seconds */
#define KEEPALIVE_IDLE 60L
#define KEEPALIVE_INTERVAL 20L

static int on_socket(CURL *easy, curl_socket_t fd, int what, void *context, void *socket_context)
{
	struct transport *transport = context;
	uint32_t events = 0;

	(void)easy;
	(void)socket_context;
	if (what == CURL_POLL_REMOVE) {
		epoll_ctl(transport->epoll_fd, EPOLL_CTL_DEL, fd, NULL);
		return 0;
	}
	if ((what & CURL_POLL_IN) != 0)
		events |= EPOLLIN;
	if ((what & CURL_POLL_OUT) != 0)
		events |= EPOLLOUT;
	if (transport_watch(transport, fd, events) < 0)
		transport->epoll_failed = true;
	return 0;
}

static int on_timer(CURLM *multi, long timeout, void *context)
{
	struct transport *transport = context;

	(void)multi;
	transport->curl_deadline = timeout < 0 ? -1 : transport_now() + timeout;
	return 0;
}

static curl_socket_t on_open_socket(void *context, curlsocktype purpose, struct curl_sockaddr *address)
{
	(void)context;
	(void)purpose;
	return socket(address->family, address->socktype | SOCK_CLOEXEC, address->protocol);
}

/* Nothing that libcurl may want to write is for anybody; by default it would go to standard output. */
static size_t on_write(char *data, size_t size, size_t count, void *context)
{
	(void)data;
	(void)context;
	return size * count;
}

/* Keeps "NO ..." and "BYE ..." of what the server answers while libcurl logs in. line has no tag. */
static void note_refusal(struct transport *transport, const char *line, size_t size)
{
	if (size > 3 && strncasecmp(line, "NO ", 3) == 0)
		line += 3, size -= 3;
	else if (size > 4 && (strncasecmp(line, "BYE ", 4) == 0 || strncasecmp(line, "BAD ", 4) == 0))
		line += 4, size -= 4;
	else
		return;
	while (size > 0 && (line[size - 1] == '\r' || line[size - 1] == '\n'))
		size--;
	if (size >= sizeof(transport->refusal))
		size = sizeof(transport->refusal) - 1;
	memcpy(transport->refusal, line, size);
	transport->refusal[size] = '\0';
}

/* The only place where libcurl shows the server's lines. Of what is sent only the command's name is looked at. */
static int on_debug(CURL *easy, curl_infotype type, char *data, size_t size, void *context)
{
	struct transport *transport = context;
	char *space;

	(void)easy;
	if (transport->state != TRANSPORT_CONNECTING)
		return 0;
	if (type == CURLINFO_HEADER_OUT && memmem(data, size, " AUTHENTICATE ", 14) != NULL)
		transport->login_tried = true;
	if (type != CURLINFO_HEADER_IN)
		return 0;
	/* a sign of life */
	transport->deadline = transport_now() + transport->account.timeout;
	if (transport->deadline > transport->last_deadline)
		transport->deadline = transport->last_deadline;
	space = memchr(data, ' ', size);
	if (space != NULL)
		note_refusal(transport, space + 1, size - (space + 1 - data));
	return 0;
}

#define SET(option, value) \
	do { \
		if (result == CURLE_OK) \
			result = curl_easy_setopt(easy, option, value); \
	} while (0)

/* "imaps://[::1]:993/". NULL: out of memory. */
static char *account_url(const struct dovetail_account *account)
{
	bool ipv6 = strchr(account->host, ':') != NULL;
	const char *zone = ipv6 ? strchr(account->host, '%') : NULL;
	char *url;

	if (asprintf(&url, "imap%s://%s%.*s%s%s%s:%u/", account->tls == DOVETAIL_TLS_IMAPS ? "s" : "",
		     ipv6 ? "[" : "", zone == NULL ? (int)strlen(account->host) : (int)(zone - account->host),
		     account->host, zone == NULL ? "" : "%25", zone == NULL ? "" : zone + 1, ipv6 ? "]" : "",
		     account->port) < 0)
		return NULL;
	return url;
}

static CURLcode set_connection(struct transport *transport, CURL *easy)
{
	const struct dovetail_account *account = &transport->account;
	CURLcode result = CURLE_OK;
	char *url = account_url(account);

	if (url == NULL)
		return CURLE_OUT_OF_MEMORY;
	SET(CURLOPT_URL, url);
	free(url);
	SET(CURLOPT_CONNECT_ONLY, 1L);
	SET(CURLOPT_PROTOCOLS_STR, "imap,imaps");
	SET(CURLOPT_REDIR_PROTOCOLS_STR, "imap,imaps");
	SET(CURLOPT_NOSIGNAL, 1L);
	/* or closing would wait for a name server that does not answer */
	SET(CURLOPT_QUICK_EXIT, 1L);
	SET(CURLOPT_NOPROGRESS, 1L);
	SET(CURLOPT_ERRORBUFFER, transport->curl_error);
	SET(CURLOPT_WRITEFUNCTION, on_write);
	SET(CURLOPT_VERBOSE, 1L);
	SET(CURLOPT_DEBUGFUNCTION, on_debug);
	SET(CURLOPT_DEBUGDATA, transport);
	SET(CURLOPT_OPENSOCKETFUNCTION, on_open_socket);
	SET(CURLOPT_TCP_KEEPALIVE, 1L);
	SET(CURLOPT_TCP_KEEPIDLE, KEEPALIVE_IDLE);
	SET(CURLOPT_TCP_KEEPINTVL, KEEPALIVE_INTERVAL);
	SET(CURLOPT_TCP_NODELAY, 1L);
	/* ours are shorter, and count all of it */
	SET(CURLOPT_CONNECTTIMEOUT_MS, (long)account->timeout * 4 + 1000);
	SET(CURLOPT_SERVER_RESPONSE_TIMEOUT, ((long)account->timeout / 1000 + 1) * 4 + 1);
	if (account->proxy != NULL) {
		SET(CURLOPT_PROXY, account->proxy);
		SET(CURLOPT_NOPROXY, "");
	}
	SET(CURLOPT_HTTPPROXYTUNNEL, 1L);
	return result;
}

static CURLcode set_tls(struct transport *transport, CURL *easy)
{
	const struct dovetail_account *account = &transport->account;
	CURLcode result = CURLE_OK;

	SET(CURLOPT_USE_SSL, account->tls == DOVETAIL_TLS_NONE ? (long)CURLUSESSL_NONE : (long)CURLUSESSL_ALL);
	SET(CURLOPT_SSLVERSION, (long)CURL_SSLVERSION_TLSv1_2);
	SET(CURLOPT_SSL_VERIFYPEER, account->insecure ? 0L : 1L);
	SET(CURLOPT_SSL_VERIFYHOST, account->insecure ? 0L : 2L);
	if (account->ca_file != NULL) {
		SET(CURLOPT_CAINFO, account->ca_file);
		/* the system's directory would be trusted besides */
		SET(CURLOPT_CAPATH, NULL);
	}
	return result;
}

static CURLcode set_login(struct transport *transport, CURL *easy, const char *password, const char *token)
{
	const char *mechanism = transport->account.mechanism;
	CURLcode result = CURLE_OK;
	char options[128];

	SET(CURLOPT_USERNAME, transport->account.user);
	if (password != NULL)
		SET(CURLOPT_PASSWORD, password);
	if (token != NULL)
		SET(CURLOPT_XOAUTH2_BEARER, token);
	/* a token can also go as the password of another mechanism */
	if (token != NULL && mechanism != NULL && strcasecmp(mechanism, "OAUTHBEARER") != 0 &&
	    strcasecmp(mechanism, "XOAUTH2") != 0)
		SET(CURLOPT_PASSWORD, token);
	if (mechanism == NULL) {
		SET(CURLOPT_LOGIN_OPTIONS, token != NULL ? TOKEN_MECHANISMS : PASSWORD_MECHANISMS);
		return result;
	}
	snprintf(options, sizeof(options), "AUTH=%s", mechanism);
	SET(CURLOPT_LOGIN_OPTIONS, options);
	return result;
}

void transport_curl_start(struct transport *transport, const char *password, const char *token)
{
	CURLcode result;
	CURLMcode multi_result;

	transport->multi = curl_multi_init();
	transport->easy = curl_easy_init();
	if (transport->multi == NULL || transport->easy == NULL) {
		transport_fail(transport, DOVETAIL_SYSTEM, "libcurl cannot be started: out of memory or descriptors");
		return;
	}
	transport->curl_error[0] = transport->refusal[0] = '\0';
	transport->login_tried = false;
	transport->curl_deadline = -1;
	transport->epoll_failed = false;
	curl_multi_setopt(transport->multi, CURLMOPT_SOCKETFUNCTION, on_socket);
	curl_multi_setopt(transport->multi, CURLMOPT_SOCKETDATA, transport);
	curl_multi_setopt(transport->multi, CURLMOPT_TIMERFUNCTION, on_timer);
	curl_multi_setopt(transport->multi, CURLMOPT_TIMERDATA, transport);
	result = set_connection(transport, transport->easy);
	if (result == CURLE_OK)
		result = set_tls(transport, transport->easy);
	if (result == CURLE_OK)
		result = set_login(transport, transport->easy, password, token);
	if (result != CURLE_OK) {
		transport_curl_fail(transport, result);
		return;
	}
	/* sets the timer, which starts it */
	multi_result = curl_multi_add_handle(transport->multi, transport->easy);
	if (multi_result != CURLM_OK)
		transport_fail(transport, DOVETAIL_SYSTEM, "libcurl: %s", curl_multi_strerror(multi_result));
}

/* ---- Results ---- */

static bool refusal_is(const struct transport *transport, const char *code)
{
	size_t length = strlen(code);

	return transport->refusal[0] == '[' && strncasecmp(transport->refusal + 1, code, length) == 0 &&
		strchr(" ]", transport->refusal[1 + length]) != NULL;
}

/* A refusal that may pass by itself (RFC 5530). */
static bool refusal_passes(const struct transport *transport)
{
	static const char *const codes[] = { "UNAVAILABLE", "INUSE", "LIMIT", "SERVERBUG", "CORRUPTION" };
	unsigned int i;

	for (i = 0; i < sizeof(codes) / sizeof(codes[0]); i++) {
		if (refusal_is(transport, codes[i]))
			return true;
	}
	return false;
}

/* OpenSSL's words for a handshake whose connection broke off: no fault of TLS. */
static bool handshake_broke(const char *text)
{
	return strstr(text, "SSL_ERROR_SYSCALL") != NULL || strstr(text, "unexpected eof") != NULL ||
		strstr(text, "onnection reset") != NULL || strstr(text, "roken pipe") != NULL;
}

static enum dovetail_status result_status(const struct transport *transport, CURLcode result)
{
	switch (result) {
	case CURLE_SSL_CONNECT_ERROR:
		return handshake_broke(transport->curl_error) ? DOVETAIL_NETWORK : DOVETAIL_TLS;
	case CURLE_PEER_FAILED_VERIFICATION:
	case CURLE_SSL_ENGINE_NOTFOUND:
	case CURLE_SSL_ENGINE_SETFAILED:
	case CURLE_SSL_CERTPROBLEM:
	case CURLE_SSL_CIPHER:
	case CURLE_USE_SSL_FAILED:
	case CURLE_SSL_CACERT_BADFILE:
	case CURLE_SSL_CRL_BADFILE:
	case CURLE_SSL_ISSUER_ERROR:
	case CURLE_SSL_PINNEDPUBKEYNOTMATCH:
	case CURLE_SSL_INVALIDCERTSTATUS:
	case CURLE_SSL_CLIENTCERT:
		return DOVETAIL_TLS;
	case CURLE_LOGIN_DENIED:
	case CURLE_AUTH_ERROR:
		return refusal_passes(transport) ? DOVETAIL_NETWORK : DOVETAIL_LOGIN;
	case CURLE_UNSUPPORTED_PROTOCOL:
	case CURLE_NOT_BUILT_IN:
	case CURLE_UNKNOWN_OPTION:
		return DOVETAIL_UNSUPPORTED;
	/* the only part of the URL that libcurl has to make sense of is the mechanism */
	case CURLE_URL_MALFORMAT:
		return DOVETAIL_UNSUPPORTED;
	case CURLE_OUT_OF_MEMORY:
	case CURLE_FAILED_INIT:
		return DOVETAIL_SYSTEM;
	default:
		return DOVETAIL_NETWORK;
	}
}

/* libcurl's words for a server that breaks off, but for those about a proxy. */
static bool connection_broke(CURLcode result, const char *text)
{
	static const char *const words[] = { "response reading failed", "Recv failure", "Send failure" };
	unsigned int i;

	for (i = 0; i < sizeof(words) / sizeof(words[0]); i++) {
		if (strncmp(text, words[i], strlen(words[i])) == 0)
			return result == CURLE_RECV_ERROR || result == CURLE_SEND_ERROR;
	}
	return result == CURLE_GOT_NOTHING;
}

/* In words for a person, and with the server's name. */
static void fail_to_connect(struct transport *transport, enum dovetail_status status, CURLcode result, const char *text)
{
	const char *host = transport->account.host, *refusal = transport->refusal;

	if (connection_broke(result, text))
		text = "the connection was closed before the login was done";
	else if (result == CURLE_WEIRD_SERVER_REPLY)
		text = refusal[0] != '\0' ? "the server is not ready" : "this is no IMAP server";
	if (refusal[0] != '\0')
		transport_fail(transport, status, "%s:%u: %s: %s", host, transport->account.port, text, refusal);
	else if (strstr(text, host) == NULL)
		transport_fail(transport, status, "%s:%u: %s", host, transport->account.port, text);
	else
		transport_fail(transport, status, "%s", text);
}

void transport_curl_fail(struct transport *transport, CURLcode result)
{
	enum dovetail_status status = result_status(transport, result);
	const char *text = transport->curl_error[0] != '\0' ? transport->curl_error : curl_easy_strerror(result);
	const char *mechanism = transport->account.mechanism;

	if (result == CURLE_URL_MALFORMAT) {
		transport_fail(transport, status, "libcurl does not know the mechanism %s, or cannot read the host's name",
			       mechanism == NULL ? "" : mechanism);
	} else if (transport->state != TRANSPORT_CONNECTING) {
		transport_fail(transport, status, "the connection is lost: %s", text);
	} else if (result == CURLE_LOGIN_DENIED && !transport->login_tried) {
		transport_fail(transport, status, "the server offers no mechanism for this login%s%s",
			       mechanism == NULL ? "" : ": ", mechanism == NULL ? "" : mechanism);
	} else if (status == DOVETAIL_LOGIN || result == CURLE_LOGIN_DENIED) {
		transport_fail(transport, status, "the server refuses the login: %s",
			       transport->refusal[0] != '\0' ? transport->refusal : text);
	} else {
		fail_to_connect(transport, status, result, text);
	}
}
