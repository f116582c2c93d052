# One image for every process of the topology; the command chooses which.
FROM python:3.11-slim

RUN useradd --create-home --uid 10001 fluxeon
WORKDIR /srv/fluxeon
COPY requirements requirements
RUN pip install --no-cache-dir --require-hashes -r requirements/all.txt
COPY pyproject.toml README.md LICENSE ./
COPY beckn_specs beckn_specs
COPY fluxeon fluxeon
COPY gateway gateway
COPY ml ml
COPY registry registry
COPY seeds seeds
RUN pip install --no-cache-dir --no-deps --no-build-isolation . \
 && install -d -o fluxeon -g fluxeon /var/lib/fluxeon
USER fluxeon
VOLUME /var/lib/fluxeon
ENV FLUXEON_DATA_DIR=/var/lib/fluxeon
EXPOSE 8080
ENTRYPOINT ["fluxeon"]
CMD ["serve", "--host", "0.0.0.0", "--port", "8080"]
