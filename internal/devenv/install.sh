#!/bin/sh
# Installs what the tests need and the machine lacks: a C compiler (for the race
# detector), a Java runtime and Maven (for Kafka), and RabbitMQ. Does nothing,
# quickly, when all of it is there.
set -eu

has() { command -v "$1" >/dev/null 2>&1; }

java_is_old() {
	major=$(java -XX:-UsePerfData -version 2>&1 | sed -n 's/.* version "\([0-9]*\).*/\1/p')
	[ "${major:-0}" -lt 17 ]
}

missing=
has gcc || missing="$missing gcc libc6-dev"
has java || missing="$missing default-jre-headless"
has mvn || missing="$missing maven"
has rabbitmq-server || [ -d /usr/lib/rabbitmq/bin ] || missing="$missing rabbitmq-server"

if [ -n "$missing" ]; then
	if ! has apt-get; then
		cat >&2 <<-END
			This is not Debian or Ubuntu. Please install, the way this system does it:
			  a C compiler, a Java runtime 17 or later, Maven, and RabbitMQ.
			Or use running services: deploy/compose.test.yaml starts them in containers.
			Or test without Kafka and RabbitMQ: make test SERVICES=embedded
		END
		exit 1
	fi
	as_root=
	if [ "$(id -u)" -ne 0 ]; then
		has sudo || { echo "run as root, please: apt-get install$missing" >&2; exit 1; }
		as_root=sudo
	fi
	echo "installing:$missing"
	export DEBIAN_FRONTEND=noninteractive
	$as_root apt-get update
	# shellcheck disable=SC2086 # a list of packages
	$as_root apt-get install -y --no-install-recommends $missing
fi

if java_is_old; then
	echo "Kafka needs Java 17 or later; this is $(java -XX:-UsePerfData -version 2>&1 | head -1)" >&2
	exit 1
fi
